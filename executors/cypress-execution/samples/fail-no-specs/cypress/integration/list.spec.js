it('is where Cypress 9 looked for it', () => {})
