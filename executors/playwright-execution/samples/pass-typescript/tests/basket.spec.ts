import { expect, test } from './fixtures';

test.use({ viewport: { width: 375, height: 667 } });

test('counts what is added', async ({ basket }) => {
  await basket.add('apple');
  await basket.add('apple');

  await expect(basket.total).toHaveText('2 in the basket: 0.80 €');
});

test('adds prices up', async ({ basket }) => {
  await basket.add('apple');
  await basket.add('melon');

  await expect(basket.total).toContainText('2.90 €');
});
