'use strict'
// The commands that a submission adds to those of Cypress.

const { chain, isCall, isMember, literal, walk } = require('./tree.js')

class Custom {
  /** Names of commands. */
  names = new Set()
  /** Why there may be more than can be seen; empty if there are not. */
  why = ''
  /** Unknown commands that were warned of, each once. */
  told = new Set()

  constructor(known) {
    for (const name of known?.names ?? []) this.names.add(name)
    this.why = known?.why ?? ''
    this.told = known?.told ?? this.told
  }

  /**
   * Add what a file's tree adds. A package can add commands as well: where a support file loads one, or a spec loads
   * one for nothing but its effects, nobody can tell.
   */
  learn(tree, isSupport) {
    const seen = new WeakSet()
    if (tree) walk(tree, null, (node) => this.#visit(node, isSupport, seen))
  }

  #visit(node, isSupport, seen) {
    if (node.type === 'ImportDeclaration' && node.importKind !== 'type') {
      if (isSupport || node.specifiers.length === 0) this.#load(node.source)
    }
    if (node.type === 'ExpressionStatement' && !isSupport) this.#require(chain(node.expression, new WeakSet()))
    if (seen.has(node) || !(isCall(node) || isMember(node))) return
    const found = chain(node, seen)
    if (isSupport) this.#require(found)
    const { root, links } = found
    const at = links.findIndex((link, i) => link.name === 'Commands' && links[i + 1]?.given)
    const method = root.name === 'Commands' ? links[0] : at < 0 ? undefined : links[at + 1]
    if (method?.given && /^(add|overwrite)(Query)?$/.test(method.name)) this.#add([literal(method.given[0])])
    if (method?.given && method.name === 'addAll') this.#add(keys(method.given.at(-1)))
  }

  #require({ root, given }) {
    if (root.name === 'require' && given) this.#load(given[0])
  }

  #load(source) {
    const name = literal(source)
    if (name && !/^(\.|\/|node:|cypress(\/|$))/.test(name)) this.why ||= `a package may bring it, like "${name}"`
  }

  #add(names) {
    for (const name of names) {
      if (name === undefined) this.why ||= 'commands are added here under names that are computed'
      else this.names.add(name)
    }
  }
}

/** The keys of an object that is written out; undefined for each that is not. */
function keys(table) {
  if (table?.type !== 'ObjectExpression') return [undefined]
  return table.properties.map(({ computed, key }) => (computed ? undefined : key?.name ?? key?.value))
}

module.exports = { Custom }
