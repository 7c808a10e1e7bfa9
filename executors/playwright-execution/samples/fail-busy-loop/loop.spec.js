const { test, expect } = require('@playwright/test');

test('one and one is two', () => {
  expect(1 + 1).toBe(2);
});

test('waits for what never comes', () => {
  while (true);
});

test('two and two is four', () => {
  expect(2 + 2).toBe(4);
});
