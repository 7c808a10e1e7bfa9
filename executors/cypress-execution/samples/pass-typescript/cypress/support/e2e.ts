declare global {
  namespace Cypress {
    interface Chainable {
      buy(...goods: string[]): void
    }
  }
}

Cypress.Commands.add('buy', (...goods: string[]) => {
  for (const good of goods) cy.get('input').type(`${good}{enter}`)
})

export {}
