const { test, expect } = require('@playwright/test');

test('one and one is two', () => {
  expect(1 + 1).toBe(2);
});

test('one and one is three', () => {
  process.exit(0);
  expect(1 + 1).toBe(3);
});
