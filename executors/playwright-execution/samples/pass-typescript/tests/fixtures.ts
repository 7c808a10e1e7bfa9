import { test as base } from '@playwright/test';

import { BasketPage } from './basket.page';

export const test = base.extend<{ basket: BasketPage }>({
  basket: async ({ page }, use) => {
    const basket = new BasketPage(page);
    await basket.open();
    await use(basket);
  },
});

export { expect } from '@playwright/test';
