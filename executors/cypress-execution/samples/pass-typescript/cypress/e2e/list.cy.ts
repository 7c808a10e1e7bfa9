const goods: string[] = ['milk', 'bread', 'salt']

describe('the shopping list', () => {
  it('takes what is typed', () => {
    cy.visit('/')
    cy.buy(...goods)
    cy.get('#left').should('have.text', String(goods.length))
  })
})
