Cypress.Commands.add('login', (user, password) => {
  cy.session(user, () => {
    cy.visit('/login')
    cy.get('#user').type(user)
    cy.get('#password').type(password, { log: false })
    cy.contains('button', 'Log in').click()
    cy.url().should('include', '/account')
  })
})

Cypress.Commands.addQuery('byTest', (id) => {
  const get = cy.now('get', `[data-test="${id}"]`)
  return () => get()
})

Cypress.Commands.overwrite('visit', (visit, url, options) => visit(url, { timeout: 10_000, ...options }))
