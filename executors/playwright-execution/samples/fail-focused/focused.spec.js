const { test, expect } = require('@playwright/test');

test.only('one and one is two', () => {
  expect(1 + 1).toBe(2);
});

test('one and one is three', () => {
  expect(1 + 1).toBe(3);
});

test.skip('two and two is four', () => {
  expect(2 + 2).toBe(4);
});
