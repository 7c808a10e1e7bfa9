'use strict'
// The commands of Cypress 14.5, by its own type definitions (npm package cypress, types/*.d.ts: Chainable), and which of
// them cannot begin a chain, by its manual (https://docs.cypress.io/api).

const words = (text) => text.trim().split(/\s+/)

/** They work on what the command before them yields, and fail without one. */
const NEEDS_SUBJECT = new Set(words(`
  and as blur check children clear click closest dblclick each eq filter find first focus invoke its last next nextAll
  nextUntil not parent parents parentsUntil prev prevAll prevUntil rightclick scrollIntoView select selectFile shadow
  should siblings spread submit trigger type uncheck
`))

/** What they yield is no chain of commands: a stub of Sinon, a jQuery object, a value. */
const UNCHAINED = new Set(words('$$ agent config isCy now spy state stub'))

/** All that Cypress knows after `cy.`: commands, and the methods of the event emitter that `cy` is. */
const OWN = new Set([...NEEDS_SUBJECT, ...UNCHAINED, ...words(`
  clearAllCookies clearAllLocalStorage clearAllSessionStorage clearCookie clearCookies clearLocalStorage clock contains
  debug document end exec fixture focused get getAllCookies getAllLocalStorage getAllSessionStorage getCookie
  getCookies go hash intercept location log mount origin pause press readFile reload request root screenshot scrollTo
  session setCookie task then tick title url viewport visit wait window within wrap writeFile

  addListener emit eventNames listenerCount listeners off on once prependListener prependOnceListener
  removeAllListeners removeListener
`)])

/** What those write who know another tool, or an older Cypress. */
const ELSEWHERE = {
  __proto__: null,
  $: "Elements are found with `cy.get('…')`.",
  back: "Write `cy.go('back')`.",
  doubleClick: 'Write `.dblclick()`.',
  expect: 'Write `expect(…)` without `cy`, or `.should(…)`.',
  fill: "Write `.type('…')`.",
  getElement: "Elements are found with `cy.get('…')`.",
  getText: "Write `.invoke('text')`, or `.should('have.text', '…')`.",
  goto: "Write `cy.visit('…')`.",
  hover: "Nothing hovers in Cypress; `.trigger('mouseover')` comes closest.",
  isVisible: "Write `.should('be.visible')`.",
  navigate: "Write `cy.visit('…')`.",
  open: "Write `cy.visit('…')`.",
  querySelector: "Elements are found with `cy.get('…')`.",
  refresh: 'Write `cy.reload()`.',
  route: 'It went with Cypress 12; write `cy.intercept(…)`.',
  sendKeys: "Write `.type('…')`.",
  server: 'It went with Cypress 12; `cy.intercept(…)` needs none.',
  sleep: 'Write `cy.wait(…)`, or better, wait for what you need.',
  text: "Write `.invoke('text')`, or `.should('have.text', '…')`.",
  toBeVisible: "Write `.should('be.visible')`.",
}

/** The known name with the fewest typing errors in it, if that is one, or two in a long name. */
function nearest(name, known) {
  const most = name.length < 3 ? 0 : name.length < 6 ? 1 : 2
  const errors = (candidate) => typos(name.toLowerCase(), candidate.toLowerCase())
  return known
    .filter((candidate) => Math.abs(candidate.length - name.length) <= most)
    .map((candidate) => ({ candidate, worth: errors(candidate) + (candidate[0] === name[0] ? 0 : 0.5) }))
    .filter(({ worth }) => worth < most + 1)
    .sort((a, b) => a.worth - b.worth)[0]?.candidate
}

/** Letters added, left out, mistaken, or swapped with the next (restricted Damerau-Levenshtein distance). */
function typos(a, b) {
  const rows = [Array.from({ length: b.length + 1 }, (_, j) => j)]
  for (let i = 1; i <= a.length; i++) {
    rows.push([i])
    for (let j = 1; j <= b.length; j++) {
      const mistaken = rows[i - 1][j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? rows[i - 2][j - 2] + 1 : Infinity
      rows[i].push(Math.min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, mistaken, swapped))
    }
  }
  return rows[a.length][b.length]
}

module.exports = { ELSEWHERE, NEEDS_SUBJECT, OWN, UNCHAINED, nearest }
