const { test, expect } = require('@playwright/test');

test('one and one is three', () => {
  expect(1 + 1).toBe(3);
});

process.exit(0);
