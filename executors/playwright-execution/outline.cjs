// Prints the tests that are written in the specs below a directory, without running them, as JSON:
// [{file, error: {message, line} or null, tests: [{title, line}], focused: [line]}]
const fs = require('node:fs');
const path = require('node:path');
const { parse } = require('@babel/parser');
const printable = require('./printable.cjs');

const SPEC = /\.(spec|test)\.[cm]?[jt]sx?$/; // Playwright's own testMatch

function specs(directory) {
  return fs.readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const file = path.join(directory, entry.name);
    if (entry.isDirectory()) return entry.name === 'node_modules' ? [] : specs(file);
    return entry.isFile() && SPEC.test(entry.name) ? [file] : [];
  });
}

function outline(file) {
  const found = { file, error: null, tests: [], focused: [] };
  const plugins = ['decorators', /tsx?$/.test(file) && 'typescript', !/ts$/.test(file) && 'jsx'].filter(Boolean);
  try {
    const { program } = parse(fs.readFileSync(file, 'utf8'), { sourceType: 'unambiguous', plugins });
    visit(program, { found, names: new Set(['test']), titles: [] });
  } catch (error) {
    found.error = { message: error.message, line: error.loc?.line ?? null };
  }
  return found;
}

function visit(node, context) {
  const { found, names, titles } = context;
  const alias = aliasIn(node, names);
  if (alias) names.add(alias);
  const call = node.type === 'CallExpression' && callOf(node, names);
  if (call) {
    if (call.words.includes('only')) found.focused.push(call.line);
    if (call.words[0] === 'describe') context = { ...context, titles: [...titles, ...call.title] };
    else if (isTest(call.words, node.arguments)) {
      found.tests.push({ title: [...titles, ...call.title].join(' › '), line: call.line });
    }
  }
  for (const part of Object.values(node).flat()) if (typeof part?.type === 'string') visit(part, context);
}

// The local name in `import { test as it }`, `const { test: it } = require(…)` and `const it = test.extend(…)`.
function aliasIn(node, names) {
  switch (node.type) {
    case 'ImportSpecifier':
      return node.imported.name === 'test' && node.local.name;
    case 'ObjectPattern':
      return node.properties.find((property) => property.key?.name === 'test')?.value.name;
    case 'VariableDeclarator':
      return node.init?.type === 'CallExpression' && callOf(node.init, names)?.words[0] === 'extend' && node.id.name;
  }
}

// `test.describe.only('basket', …)` as {words: ['describe', 'only'], title: ['basket'], line}; undefined for others.
function callOf({ callee, arguments: [first] }, names) {
  const words = [];
  let root = callee;
  for (; root.type === 'MemberExpression'; root = root.object) words.unshift(root.property.name);
  if (!names.has(root.name)) return undefined;
  const line = (callee.property ?? callee).loc.start.line; // where the engine, and so Playwright, sees the call
  return { words, title: titleOf(first), line };
}

function titleOf(node) {
  if (node?.type === 'StringLiteral') return [node.value];
  if (node?.type === 'TemplateLiteral') return [node.quasis.map((quasi) => quasi.value.raw).join('${…}')];
  return [];
}

// Told from `test.skip(condition, reason)`, and from hooks and steps.
function isTest(words, given) {
  if (words.length === 0 || words.includes('only')) return true;
  return ['skip', 'fixme', 'fail'].includes(words[0]) && given.length > 1 && !isFunction(given[0]) && isFunction(given.at(-1));
}

function isFunction({ type }) {
  return type === 'ArrowFunctionExpression' || type === 'FunctionExpression';
}

console.log(printable(specs(process.argv[2]).sort().map(outline)));
