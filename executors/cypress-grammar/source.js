'use strict'
// One file: read, parsed, and what is found in it.

const fs = require('node:fs')
const path = require('node:path')
const { parse } = require('@babel/parser')

const MOST_BYTES = 1024 * 1024 // of one file: 25,000 lines; a tree takes up to five hundred times as much
const MOST_FINDINGS = 20 // of one file; the rest is counted
const MOST_SYNTAX = 5 // errors of one file; Babel guesses on after each, and the later ones mean little
const LINE_END = /\r\n|[\n\r\u2028\u2029]/

/** The findings of one file. */
class Findings {
  #checks = []
  #lines

  constructor(file, text) {
    this.file = file
    this.#lines = text.split(LINE_END)
  }

  /** Tell what is wrong at a place: a node of the tree, an error of Babel's, or null for the file as a whole. */
  fail(name, place, message) {
    this.#tell(name, place, message, false)
  }

  /** Tell what is worth knowing, but no reason to fail. */
  warn(name, place, message) {
    this.#tell(name, place, message, true)
  }

  /** What was told, mistakes first, in the order of the source. */
  list() {
    const checks = this.#checks.sort((a, b) => a.warning - b.warning || a.line - b.line)
    const rest = checks.splice(MOST_FINDINGS)
    if (rest.length) checks.push({ ...rest[0], name: 'more', message: `and ${rest.length} more`, line: null })
    return checks
  }

  #tell(name, place, message, warning) {
    const at = place && (place.loc.start ?? place.loc)
    this.#checks.push({ name, passed: false, warning, message: this.#placed(message, at), file: this.file, line: at?.line ?? null })
  }

  #placed(message, at) {
    if (!at) return message
    const line = this.#lines[at.line - 1] ?? ''
    const code = line.length <= 120 ? line.trim() : `… ${line.slice(Math.max(0, at.column - 20), at.column + 80)} …`
    return `line ${at.line}, column ${at.column + 1}: ${message}${code && `\nThe line: ${code}`}`
  }
}

/** The file's findings and, if it has no mistake of syntax, its tree. */
function read(directory, file) {
  const place = path.join(directory, file)
  const without = (name, message) => {
    const findings = new Findings(file, '')
    findings.fail(name, null, message)
    return { findings }
  }
  if (fs.statSync(place).size > MOST_BYTES) {
    return without('file too large', 'The file is larger than 1 MiB. Large data belongs into `cypress/fixtures`.')
  }
  let text
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(fs.readFileSync(place))
  } catch {
    return without('not UTF-8', 'The file is no text in UTF-8. Save it again with the encoding UTF-8.')
  }
  const findings = new Findings(file, text)
  try {
    const { program, errors } = parsed(file, text)
    for (const error of errors.slice(0, MOST_SYNTAX)) findings.fail('syntax error', error, explain(error, text))
    return errors.length ? { findings } : { findings, tree: program }
  } catch (error) {
    if (error instanceof RangeError) {
      return without('nested too deeply', 'The brackets are nested too deeply to be read: thousands of levels.')
    }
    if (!(error instanceof SyntaxError && error.loc)) throw error
    findings.fail('syntax error', error, explain(error, text))
    return { findings }
  }
}

function parsed(file, text) {
  const typed = /\.[cm]?tsx?$/.test(file)
  const plugins = ['decorators-legacy', ...(typed ? ['typescript'] : []), ...(!typed || file.endsWith('x') ? ['jsx'] : [])]
  // Babel goes on after a mistake. The worst file has a hundred thousand; without a stack each they fit into memory.
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    return parse(text, { sourceType: 'unambiguous', errorRecovery: true, attachComment: false, plugins })
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}

/** Babel's message without its place, and what to look for. */
function explain(error, text) {
  if (error.reasonCode === 'MissingSemicolon') {
    return 'This cannot follow what stands before it. Is a dot, a comma, a quote or a bracket missing?'
  }
  const message = error.message.replace(/\.? \(\d+:\d+\)$/, '.')
  const open = unclosed(text)
  if (!open) return message
  const { line, column } = position(text, open.at)
  const before = open.by === undefined ? '' : ` before the "${text[open.by]}" of line ${position(text, open.by).line}`
  return `${message} The "${text[open.at]}" of line ${line}, column ${column + 1} is not closed${before}.`
}

const BRACKETS = { '(': ')', '[': ']', '{': '}' }
const TOKENS = new RegExp([
  /\/\/.*/,
  /\/\*[^]*?\*\//,
  /'(?:\\[^]|[^'\\\n])*'/,
  /"(?:\\[^]|[^"\\\n])*"/,
  /`(?:\\[^]|[^`\\])*`/,
  /\/(?<=[(,=:!&|]\s*\/)(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n])+\//, // a regular expression, where one may stand
  /[()[\]{}]/,
].map((token) => token.source).join('|'), 'g')

/** Where the innermost open bracket is `at`, when another kind is closed `by` a bracket, or the text ends; a guess. */
function unclosed(text) {
  const open = []
  for (const { 0: token, index } of text.matchAll(TOKENS)) {
    if (token in BRACKETS) open.push(index)
    else if (token.length === 1) {
      const at = open.pop()
      if (at === undefined) return undefined
      if (BRACKETS[text[at]] !== token) return { at, by: index }
    }
  }
  return open.length ? { at: open.at(-1) } : undefined
}

function position(text, index) {
  const lines = text.slice(0, index).split(LINE_END)
  return { line: lines.length, column: lines.at(-1).length }
}

module.exports = { MOST_BYTES, read }
