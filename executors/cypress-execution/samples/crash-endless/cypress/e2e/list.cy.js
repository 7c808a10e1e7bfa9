it('waits for what never comes', () => {
  cy.visit('index.html')
  cy.get('h1').then(() => {
    for (;;);
  })
})
