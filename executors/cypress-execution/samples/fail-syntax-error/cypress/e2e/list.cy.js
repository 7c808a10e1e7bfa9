describe('the shopping list', () => {
  it('starts empty', () => {
    cy.visit('index.html'
    cy.get('#left').should('have.text', '0')
  })
})
