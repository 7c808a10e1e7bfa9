describe('the login', () => {
  it('lets Ada in', () => {
    cy.vist('/login')
    cy.get('#user').sendKeys('ada')
    cy.get('#go').clcik()
    cy.wait(5000)
    cy.contains('Welcome, Ada')
  })

  it('keeps Eve out', () => {
    // cy.visit('/login')
  })
})
