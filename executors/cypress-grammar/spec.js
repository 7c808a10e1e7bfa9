'use strict'
// The rules: what is wrong with a spec, or with a support file, beyond its syntax.

const { NEEDS_SUBJECT, OWN, ELSEWHERE, UNCHAINED, nearest } = require('./commands.js')
const { Custom } = require('./custom.js')
const { chain, declared, isCall, isFunction, isMember, literal, walk } = require('./tree.js')

const LONG_WAIT_MS = 1000
const BLOCKS = new Map(Object.entries({ it: 'test', specify: 'test', describe: 'group of tests', context: 'group of tests' }))
const FOREIGN = new Map(Object.entries({ test: 'it', suite: 'describe', fit: 'it', fdescribe: 'describe', fcontext: 'context' }))
const OUTSIDE = { shadowed: false, skipped: false, test: null, asynchronous: null }

/** Add to a file's findings; the number of its tests that would run is told, too. */
function examine({ findings, tree }, custom, isSpec = false) {
  if (!tree) return { findings, tests: 0 }
  const known = new Custom(custom)
  if (isSpec) known.learn(tree, false)
  const spec = new Spec(tree, findings, known)
  walk(tree, OUTSIDE, (node, state) => spec.visit(node, state))
  spec.end()
  if (isSpec && spec.tests === 0) spec.noTest()
  return { findings, tests: spec.tests }
}

class Spec {
  tests = 0
  #bodies = new Map() // of tests
  #asynchronous = []
  #imports = false
  #seen = new WeakSet()

  constructor(tree, findings, custom) {
    this.tree = tree
    this.findings = findings
    this.custom = custom
  }

  /** Look at one node; returns the state of what is below it. */
  visit(node, outer) {
    let state = this.#enter(node, outer)
    if (node.type === 'ImportDeclaration' && node.source.value.startsWith('.')) this.#imports = true
    if (node.type === 'AwaitExpression' && state.asynchronous) state.asynchronous.awaits = true
    if (node.type === 'ExpressionStatement' && !state.shadowed) this.#notCalled(node.expression)
    if (/^(NewExpression|TaggedTemplateExpression|ThrowStatement)$/.test(node.type) && state.test) state.test.acts = true
    if (this.#seen.has(node) || !(isCall(node) || isMember(node))) return state

    const { root, links, given } = chain(node, this.#seen)
    if (state.test && root.name !== 'console' && (given || links.some((link) => link.given))) state.test.acts = true
    if (root.name === 'cy' && !state.shadowed) {
      if (state.asynchronous) state.asynchronous.commands = true
      this.#commands(links)
    }
    const modifier = ['only', 'skip'].includes(links[0]?.name) && links[0].given ? links[0] : undefined
    if (given ?? modifier) state = this.#block(root, given ?? modifier.given, given ? undefined : modifier.name, state)
    return state
  }

  /** Say what only the whole file shows. */
  end() {
    for (const { root, acts, title } of this.#bodies.values()) {
      if (acts) continue
      const advice = 'Let it visit a page and look at something there, or remove it.'
      this.findings.fail('empty test', root, `The test ${title}does nothing; comments do not count. ${advice}`)
    }
    for (const { node, awaits, commands } of this.#asynchronous) {
      if (!awaits || !commands) continue
      const reason = 'Commands are no promises, and run after the function has ended.'
      this.findings.warn('await beside cy', node, `This function mixes \`await\` with \`cy\`. ${reason} Use \`.then(…)\`.`)
    }
  }

  noTest() {
    if (this.#imports) {
      this.findings.warn('no test', null, 'No test is written in this file. Perhaps what it imports has some.')
    } else {
      this.findings.fail('no test', null, "No test in this file would run. Write `it('…', () => { … })`.")
    }
  }

  #enter(node, outer) {
    const state = { ...outer }
    const binding = declared(node, 'cy')
    if (binding && !outer.shadowed) {
      state.shadowed = true
      this.#replaced(binding, node === this.tree)
    }
    if (isFunction(node)) {
      if (this.#bodies.has(node)) state.test = this.#bodies.get(node)
      state.asynchronous = node.async ? { node, awaits: false, commands: false } : null
      if (node.async) this.#asynchronous.push(state.asynchronous)
    }
    return state
  }

  #replaced(binding, everywhere) {
    if (everywhere) {
      const advice = 'Cypress needs no import: remove this, or take another name.'
      this.findings.fail('cy is replaced', binding, `The name \`cy\` is declared here and hides Cypress's own. ${advice}`)
    } else {
      this.findings.warn('cy is replaced', binding, 'Here `cy` is something else than the `cy` of Cypress. Take another name.')
    }
  }

  /** A statement like `cy.reload;`. */
  #notCalled(expression) {
    if (!isMember(expression)) return
    const { root, links } = chain(expression, new WeakSet())
    const { name, node } = links.at(-1)
    if (root.name !== 'cy' || !(OWN.has(name) || this.custom.names.has(name))) return
    this.findings.fail('command not called', node, `\`${name}\` is only named here. Call it, with parentheses: \`${name}()\`.`)
  }

  /** Each command of one chain that begins with `cy`, as far as what it yields is a chain. */
  #commands(links) {
    for (const [at, { name, node, given }] of links.entries()) {
      if (name === undefined) return
      const isCustom = this.custom.names.has(name)
      if (!OWN.has(name) && !isCustom) {
        this.#unknown(name, node, at === 0)
        return
      }
      if (at === 0 && given && NEEDS_SUBJECT.has(name) && !isCustom) {
        const advice = `Get that first: \`cy.get('…').${name}(…)\`.`
        this.findings.fail('command without an element', node, `\`cy.${name}\` has nothing to work on. ${advice}`)
      }
      if (name === 'wait' && given?.[0]?.type === 'NumericLiteral' && given[0].value >= LONG_WAIT_MS) {
        const advice = "Wait for what you need: `cy.get('…').should('be.visible')`, or an alias of `cy.intercept`."
        const reason = 'always takes that long, and may be too short all the same'
        this.findings.warn('fixed wait', node, `\`wait(${given[0].value})\` ${reason}. ${advice}`)
      }
      if (!given || UNCHAINED.has(name)) return
    }
  }

  #unknown(name, node, isFirst) {
    const { names, why, told } = this.custom
    const shown = isFirst ? `cy.${name}` : `.${name}`
    const close = nearest(name, [...names, ...OWN])
    if (close) {
      const meant = !isFirst ? `.${close}` : NEEDS_SUBJECT.has(close) ? `cy.get('…').${close}` : `cy.${close}`
      this.findings.fail('unknown command', node, `\`${shown}\` is no Cypress command. Did you mean \`${meant}\`?`)
    } else if (why) {
      if (told.has(name)) return
      told.add(name)
      this.findings.warn('unknown command', node, `\`${shown}\` is no command of Cypress itself; ${why}.`)
    } else {
      const advice = ELSEWHERE[name] ?? 'No `Cypress.Commands.add` of this submission adds it either.'
      this.findings.fail('unknown command', node, `\`${shown}\` is no Cypress command. ${advice}`)
    }
  }

  /** A call that may be of `it`, `describe.only`, `xit` and so on; returns the state in there. */
  #block(root, given, modifier, state) {
    if (root.type !== 'Identifier') return state
    const skipped = modifier === 'skip' || (root.name.startsWith('x') && BLOCKS.has(root.name.slice(1)))
    const foreign = declared(this.tree, root.name) ? undefined : FOREIGN.get(root.name)
    const what = BLOCKS.get(foreign ?? root.name.replace(/^x/, ''))
    if (!what) return state

    const { findings } = this
    const shown = modifier ? `${root.name}.${modifier}` : root.name
    const title = literal(given[0]) === undefined ? '' : `"${literal(given[0])}" `
    const callback = given.find(isFunction)
    if (foreign) findings.fail('unknown function', root, `Cypress has no \`${root.name}\`. Write \`${foreign}\`.`)
    if (modifier === 'only') findings.fail('focused test', root, `\`${shown}\` hides all other tests of the file. Remove \`.only\`.`)
    if (skipped) findings.warn('skipped test', root, `The ${what} ${title}never runs.`)
    if (state.test) findings.warn('nested test', root, `The ${what} ${title}is inside of another test. Is a \`})\` misplaced?`)
    if (callback && callback === given[0]) {
      findings.fail('no title', root, `The ${what} has no title. Write \`${shown}('…', () => { … })\`.`)
    } else if (given.length < 2 && given[0]?.type !== 'SpreadElement' && !skipped) {
      const advice = `Write \`${shown}('…', () => { … })\`, and mind where the brackets close.`
      findings.fail('empty test', root, `The ${what} ${title}has no body. ${advice}`)
    }
    if (what === 'test' && callback && !skipped) this.#bodies.set(callback, { root, title, acts: false })
    if (what === 'test' && !skipped && !state.skipped) this.tests += 1
    return { ...state, skipped: state.skipped || skipped }
  }
}

module.exports = { examine }
