'use strict'
// Which tests are certain to run, by the source of specs alone; nothing of it is executed.
//
//     node outline.cjs FOLDER < '["FILE", …]'      # {"FILE": [{"titles", "line"}, …], …}
//
// Listed are the tests that stand in the file itself, or in the function of a `describe` that does. Those within an
// `if`, a loop or another function depend on what the code does, and may be none or many. A title that is computed is
// null, and so is the list of a file that is nested too deeply to be read.

const fs = require('node:fs')
const path = require('node:path')
const ts = require('typescript')

const GROUPS = ['describe', 'context', 'xdescribe', 'xcontext']
const TESTS = ['it', 'specify', 'xit', 'xspecify']

function outline(name, text) {
  const source = ts.createSourceFile(name, text, ts.ScriptTarget.Latest)
  return [...tests(source.statements, [])]

  function* tests(statements, outer) {
    for (const { expression: call } of statements.filter(ts.isExpressionStatement)) {
      if (!ts.isCallExpression(call)) continue
      const word = called(call.expression)
      const titles = [...outer, literal(call.arguments[0])]
      if (TESTS.includes(word)) yield { titles, line: source.getLineAndCharacterOfPosition(call.getStart(source)).line + 1 }
      if (GROUPS.includes(word)) yield* tests(body(call.arguments.at(-1)), titles)
    }
  }
}

/** `it` of `it(…)`, `it.only(…)` and `it.skip(…)`. */
function called(node) {
  return ts.isPropertyAccessExpression(node) && ['only', 'skip'].includes(node.name.text) ? node.expression.text : node.text
}

function literal(node) {
  return node && ts.isStringLiteralLike(node) ? node.text : null
}

function body(node) {
  return node && ts.isFunctionLike(node) && node.body && ts.isBlock(node.body) ? node.body.statements : []
}

const folder = process.argv[2]
const outlines = {}
for (const file of JSON.parse(fs.readFileSync(0))) {
  try {
    outlines[file] = outline(file, fs.readFileSync(path.join(folder, file), 'utf8'))
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    outlines[file] = null
  }
}
process.stdout.write(JSON.stringify(outlines))
