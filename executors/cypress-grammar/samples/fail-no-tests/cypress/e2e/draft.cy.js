describe('the search', () => {
  beforeEach(() => cy.visit('/'))

  it.skip('finds tea', () => {
    cy.get('#query').type('tea{enter}')
    cy.contains('Green tea')
  })
})
