describe('the shopping list', () => {
  beforeEach(() => {
    cy.visit('index.html')
  })

  it('starts empty', () => {
    cy.get('li').should('not.exist')
    cy.get('#left').should('have.text', '0')
  })

  it('takes what is typed', () => {
    cy.get('input').type('milk{enter}')
    cy.get('input').type('bread{enter}')
    cy.get('li').should('have.length', 2).first().should('have.text', 'milk')
    cy.get('#left').should('have.text', '2')
  })

  it('strikes out what is bought', () => {
    cy.get('input').type('milk{enter}')
    cy.contains('li', 'milk').click().should('have.class', 'done')
    cy.get('#left').should('have.text', '0')
  })
})
