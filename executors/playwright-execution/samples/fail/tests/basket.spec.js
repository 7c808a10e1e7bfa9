const { test, expect } = require('@playwright/test');

test.beforeEach(async ({ page }) => {
  await page.goto('/');
});

test('is empty at first', async ({ page }) => {
  await expect(page.getByRole('status')).toHaveText('The basket is empty.');
});

test('costs the sum', async ({ page }) => {
  await page.getByRole('button', { name: 'Add apple' }).click();
  await page.getByRole('button', { name: 'Add melon' }).click();

  await expect(page.getByRole('status')).toContainText('3.00 €');
});
