export class Basket {
  open() {
    cy.visit('/basket')
    return this
  }

  rows() {
    return cy.byTest('row')
  }
}
