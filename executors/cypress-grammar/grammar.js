'use strict'
// What is wrong with Cypress specs, told without running them.
//
//     node grammar.js DIRECTORY FILES_DIR FILE_EXT
//
// prints a JSON list of checks, each with name, passed, warning, message, file and line.

const fs = require('node:fs')
const path = require('node:path')
const { Custom } = require('./custom.js')
const { MOST_BYTES, read } = require('./source.js')
const { examine } = require('./spec.js')

const MOST_SPECS = 1000
const MOST_CHECKS = 500 // in the report; nobody reads more
const SCRIPT = /(?<!\.d)\.[cm]?[jt]sx?$/

function main(directory, filesDir, extension) {
  const files = filesIn(directory)
  const isBelow = (file) => !path.relative(filesDir, file).startsWith('..')
  const isSpec = (file) => isBelow(file) && file.endsWith(`.${extension}`)
  const specs = files.filter(isSpec)
  if (specs.length === 0) return [failed('no spec', missing(files, isBelow, path.join(filesDir), extension))]
  if (specs.length > MOST_SPECS) {
    return [failed('too many specs', `There are ${specs.length} specs; no more than ${MOST_SPECS} are looked at.`)]
  }

  const support = files.filter((file) => SCRIPT.test(file) && !isSpec(file) && isSupport(directory, file))
  const custom = new Custom()
  for (const file of support) custom.learn(read(directory, file).tree, true)

  const checks = support.flatMap((file) => examine(read(directory, file), custom).findings.list())
  let all = 0
  for (const file of specs) {
    const { findings, tests } = examine(read(directory, file), custom, true)
    const found = findings.list()
    all += tests
    if (tests && found.every((check) => check.warning)) {
      const message = tests === 1 ? '1 test' : `${tests} tests`
      checks.push({ name: 'the spec is well formed', passed: true, warning: false, message, file, line: null })
    }
    checks.push(...found)
  }
  if (all === 0 && checks.every((check) => check.warning)) checks.push(failed('no test', 'No spec has a test that would run.'))
  return cut(checks)
}

/** The submission's files, relative to `directory`; not what npm has installed, nor what is hidden. */
function filesIn(directory) {
  return fs.readdirSync(directory, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(directory, path.join(entry.parentPath, entry.name)))
    .filter((file) => !file.split('/').some((part) => part === 'node_modules' || part.startsWith('.')))
    .sort()
}

/** Whether a script that is no spec is Cypress's: it lies where Cypress loads it, or adds commands. */
function isSupport(directory, file) {
  if (file.split('/').slice(0, -1).includes('support')) return true
  const place = path.join(directory, file)
  return fs.statSync(place).size <= MOST_BYTES && fs.readFileSync(place).includes('Cypress.Commands')
}

function missing(files, isBelow, folder, extension) {
  const needed = `There is no spec: no file \`${folder}/**/*.${extension}\`.`
  const misplaced = files.find((file) => file.endsWith(`.${extension}`))
  if (misplaced) return `${needed} \`${misplaced}\` lies in another folder; move it.`
  const misnamed = files.find((file) => isBelow(file) && SCRIPT.test(file))
  return misnamed ? `${needed} If \`${misnamed}\` is one, let its name end in \`.${extension}\`.` : needed
}

function cut(checks) {
  if (checks.length <= MOST_CHECKS) return checks
  const rank = (check) => (check.passed ? 2 : check.warning ? 1 : 0)
  const sorted = checks.sort((a, b) => rank(a) - rank(b))
  const more = { ...sorted[MOST_CHECKS], name: 'more', message: `and ${checks.length - MOST_CHECKS} more`, file: null, line: null }
  return [...sorted.slice(0, MOST_CHECKS), more]
}

function failed(name, message) {
  return { name, passed: false, warning: false, message, file: null, line: null }
}

process.stdout.write(JSON.stringify(main(...process.argv.slice(2))))
