const { test, expect } = require('@playwright/test');

test.beforeEach(async ({ page }) => {
  await page.goto('/');
});

test('is empty at first', async ({ page }) => {
  await expect(page.getByRole('status')).toHaveText('The basket is empty.');
});

test.describe('with fruit in it', () => {
  for (const [fruit, total] of [['apple', '0.40 €'], ['melon', '2.50 €']]) {
    test(`costs what one ${fruit} costs`, async ({ page }) => {
      await page.getByRole('button', { name: `Add ${fruit}` }).click();

      await expect(page.getByRole('status')).toHaveText(`1 in the basket: ${total}`);
    });
  }

  test('costs the sum', async ({ page }) => {
    await page.getByRole('button', { name: 'Add apple' }).click();
    await page.getByRole('button', { name: 'Add melon' }).click();

    await expect(page.getByRole('status')).toContainText('2.90 €');
  });
});
