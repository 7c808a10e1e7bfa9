describe('the search', () => {
  it('finds tea', () => {
    cy.visit('/')
    cy.get('#query'.type('tea')
    cy.contains('Green tea')
  })
})
