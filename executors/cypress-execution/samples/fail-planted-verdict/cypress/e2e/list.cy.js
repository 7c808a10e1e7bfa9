it('has a title that it does not have', { defaultCommandTimeout: 500 }, () => {
  cy.visit('index.html')
  cy.get('h1').should('have.text', 'Passed')
})
