describe('the search', () => {
  beforeEach(() => cy.visit('/'))

  it.only('finds tea', () => {
    cy.get('#query').type('tea{enter}')
    cy.contains('Green tea')
  })

  it('finds nothing', () => {
    cy.get('#query').type('xyzzy{enter}')
    cy.contains('Nothing found')
  })
})
