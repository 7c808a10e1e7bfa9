import { type Locator, type Page } from '@playwright/test';

export class BasketPage {
  readonly total: Locator;

  constructor(private readonly page: Page) {
    this.total = page.getByRole('status');
  }

  async open(): Promise<void> {
    await this.page.goto('/');
  }

  async add(fruit: 'apple' | 'melon'): Promise<void> {
    await this.page.getByRole('button', { name: `Add ${fruit}` }).click();
  }
}
