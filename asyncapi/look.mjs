// Looks at the page in a headless Chromium without a network.
//
//     CHROMIUM=/usr/bin/chromium node look.mjs site/index.html [FOLDER]
//
// Prints what it saw as JSON; in FOLDER, if it is named, it leaves pictures: narrow and wide, light and dark.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [file, folder] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "ulos-chromium-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync"],
  offline: true,
});
try {
  const page = await browser.newPage();
  const requests = [], complaints = [];
  page.on("request", (request) => requests.push(request.url()));
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  const shown = async () => Object.fromEntries(await Promise.all(
    [["channel", "#channel-crashes"], ["schema", "#schema-RoutingDecision"]].map(async ([name, id]) =>
      [name, await page.locator(id).isVisible() ? await page.locator(id).innerText() : ""])));

  await page.goto(pathToFileURL(resolve(file)).href);
  const closed = await shown();
  await page.locator("summary", { hasText: "crashes" }).click();
  await page.locator("#channel-crashes").getByRole("link", { name: "TaskCrash" }).click();
  await page.locator("#schema-TaskCrash").getByRole("link", { name: "RoutingDecision" }).click();
  const opened = await shown();

  const links = await page.locator('a[href^="#"]').evaluateAll((links) =>
    links.map((link) => ({ to: link.hash, found: document.getElementById(link.hash.slice(1)) !== null })));
  const overflow_px = {};
  for (const width of [400, 1400]) {
    await page.setViewportSize({ width, height: 1000 });
    overflow_px[width] = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    for (const colorScheme of folder ? ["light", "dark"] : []) {
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: join(folder, `${width}-${colorScheme}.png`), fullPage: true });
    }
  }
  console.log(JSON.stringify({
    closed,
    opened,
    links: links.length,
    broken_links: links.filter((link) => !link.found).map((link) => link.to),
    active_elements: await page.locator("script, form, input, button, select, textarea, iframe, object").count(),
    overflow_px,
    complaints,
    requests,
  }));
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
