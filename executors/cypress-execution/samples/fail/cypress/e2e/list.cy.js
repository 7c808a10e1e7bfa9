describe('the shopping list', () => {
  beforeEach(() => {
    cy.visit('index.html')
  })

  it('starts empty', () => {
    cy.get('#left').should('have.text', '0')
  })

  it('counts what is left to buy', () => {
    cy.get('input').type('milk{enter}')
    cy.get('input').type('bread{enter}')
    cy.contains('li', 'milk').click()
    cy.get('#left').should('have.text', '2')
  })
})
