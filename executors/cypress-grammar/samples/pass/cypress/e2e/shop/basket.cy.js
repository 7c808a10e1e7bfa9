import { Basket } from '../../pages/basket'

const basket = new Basket()

describe('the basket', function () {
  before(() => cy.task('db:seed', null, { timeout: 20_000 }))

  beforeEach(function () {
    cy.login('ada', 'lovelace')
    cy.fixture('order').as('order')
    cy.intercept('POST', '/api/orders', { statusCode: 201, body: { id: 7 } }).as('ordering')
  })

  it('keeps what was put in', function () {
    basket.open()
    basket.rows().should('have.length', this.order.items.length)
    basket.rows().each(($row, index) => {
      expect($row.text()).to.contain(this.order.items[index])
    })
  })

  it('sends an order', () => {
    basket.open()
    cy.contains('Order').click()
    cy.wait('@ordering').its('request.body.items').should('have.length', 2)
    cy.location('pathname').should('eq', '/orders/7')
  })

  it('asks before it empties the basket', () => {
    const confirm = cy.stub().returns(true).as('confirm')
    cy.on('window:confirm', confirm)
    basket.open()
    cy.get('#empty').click().then(() => expect(confirm).to.be.calledOnce)
    cy.byTest('row').should('not.exist')
  })
})
