describe('the shopping list', () => {
  it.only('has a title', () => {
    cy.visit('index.html')
    cy.get('h1').should('have.text', 'Shopping list')
  })

  it('starts full', () => {
    cy.visit('index.html')
    cy.get('li').should('have.length', 10)
  })
})
