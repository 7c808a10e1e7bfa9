/// <reference types="cypress" />

describe('the to-do list', () => {
  beforeEach(() => {
    cy.visit('/')
    cy.get('.todo-list li').as('items')
  })

  it('shows two items at first', () => {
    cy.get('@items').should('have.length', 2)
    cy.get('@items').first().should('have.text', 'Pay the bill')
    cy.get('@items').last().should('have.text', 'Walk the dog')
  })

  it('adds an item', () => {
    cy.get('[data-test=new]').type('Feed the cat{enter}')

    cy.get('@items')
      .should('have.length', 3)
      .last()
      .should('have.text', 'Feed the cat')
      .and('be.visible')
  })

  context('with an item done', () => {
    beforeEach(() => {
      cy.contains('Pay the bill').parent().find('input[type=checkbox]').check()
    })

    for (const filter of ['active', 'completed']) {
      it(`shows one item under "${filter}"`, { retries: 2 }, () => {
        cy.contains('a', new RegExp(filter, 'i')).click()
        cy.get('@items').should('have.length', 1)
      })
    }
  })
})
