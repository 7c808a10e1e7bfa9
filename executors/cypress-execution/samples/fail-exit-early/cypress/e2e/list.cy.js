it('would fail', () => {
  expect(1).to.equal(2)
})
