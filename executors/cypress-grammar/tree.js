'use strict'
// Babel's syntax trees. Nothing here recurses over expressions: Babel reads `cy.a().b()…` in a loop, so that a tree can
// be deeper than the stack.

/** Visit all below `root`, parents first, in the order of the source; `visit` makes a node's state of its parent's. */
function walk(root, state, visit) {
  const waiting = [[root, state]]
  while (waiting.length) {
    const [node, outer] = waiting.pop()
    const inner = visit(node, outer)
    const children = Object.values(node).flat().filter((value) => typeof value?.type === 'string')
    for (const child of children.reverse()) waiting.push([child, inner])
  }
}

const isCall = (node) => node.type === 'CallExpression' || node.type === 'OptionalCallExpression'
const isMember = (node) => node.type === 'MemberExpression' || node.type === 'OptionalMemberExpression'

/**
 * `cy.get('a').its` as its root, `cy`, and links, `get` and `its`, each with its name (undefined where it is computed),
 * node and, if it is called, arguments. `given` are the arguments of the root, if that is called.
 *
 * Each expression that is part of it is put into `seen`.
 */
function chain(node, seen) {
  const links = []
  let given
  for (;;) {
    seen.add(node)
    if (isCall(node)) {
      given = node.arguments
      node = node.callee
    } else if (isMember(node)) {
      links.push({ name: node.computed ? undefined : node.property.name, node: node.property, given })
      given = undefined
      node = node.object
    } else if (/^TS(NonNull|As|Satisfies|Instantiation)Expression$/.test(node.type)) {
      node = node.expression
    } else {
      return { root: node, links: links.reverse(), given }
    }
  }
}

/** The text of a node that is nothing but text. */
function literal(node) {
  if (node?.type === 'StringLiteral') return node.value
  return node?.type === 'TemplateLiteral' && node.quasis.length === 1 ? node.quasis[0].value.cooked : undefined
}

/** The node that gives `name` a meaning of its own in the scope which `node` opens, if one does. */
function declared(node, name) {
  const inPattern = (pattern) => {
    switch (pattern?.type) {
      case 'Identifier': return pattern.name === name ? pattern : undefined
      case 'ObjectPattern': return first(pattern.properties, inPattern)
      case 'ObjectProperty': return inPattern(pattern.value)
      case 'ArrayPattern': return first(pattern.elements, inPattern)
      case 'AssignmentPattern': return inPattern(pattern.left)
      case 'RestElement': return inPattern(pattern.argument)
      default: return undefined
    }
  }
  const inStatement = (statement) => {
    switch (statement?.type) {
      case 'VariableDeclaration':
        return statement.declare ? undefined : first(statement.declarations, (one) => inPattern(one.id))
      case 'FunctionDeclaration':
      case 'ClassDeclaration': return inPattern(statement.id)
      case 'ImportDeclaration': return first(statement.specifiers, (one) => inPattern(one.local))
      case 'ExportNamedDeclaration': return inStatement(statement.declaration)
      default: return undefined
    }
  }
  switch (node.type) {
    case 'Program':
    case 'BlockStatement':
    case 'StaticBlock': return first(node.body, inStatement)
    case 'ForStatement': return inStatement(node.init)
    case 'ForInStatement':
    case 'ForOfStatement': return inStatement(node.left)
    case 'CatchClause': return inPattern(node.param)
    default: return isFunction(node) ? first(node.params, inPattern) : undefined
  }
}

function isFunction(node) {
  return /^(FunctionDeclaration|FunctionExpression|ArrowFunctionExpression|(Object|Class|ClassPrivate)Method)$/.test(node.type)
}

function first(items, look) {
  for (const item of items) {
    const found = look(item)
    if (found) return found
  }
  return undefined
}

module.exports = { chain, declared, isCall, isFunction, isMember, literal, walk }
