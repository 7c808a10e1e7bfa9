// Looks at every page of the documentation in a headless Chromium without a network.
//
//     CHROMIUM=/usr/bin/chromium node look-at-site.mjs ../docs/site [FOLDER]
//
// Prints what it saw as JSON; in FOLDER, if it is named, it leaves pictures: narrow and wide, light and dark.
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const [site, folder] = process.argv.slice(2);
const own = (file) => file.endsWith(".html") && !file.startsWith("asyncapi");  // that page has a look of its own
const files = readdirSync(site, { recursive: true }).filter(own).sort();
const profile = mkdtempSync(join(tmpdir(), "ulos-chromium-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-sync"],
  offline: true,
});
try {
  const page = await browser.newPage();
  const outside = [], complaints = [], pages = {};
  const root = pathToFileURL(resolve(site)).href;
  page.on("request", (request) =>
    request.url().startsWith(root) || request.url().startsWith("data:") || outside.push(request.url()));
  page.on("console", (message) => complaints.push(`${relative(root, page.url())}: ${message.text()}`));
  page.on("pageerror", (error) => complaints.push(`${page.url()}: ${error}`));
  page.on("requestfailed", (request) => complaints.push(`${request.url()} failed`));

  for (const file of files) {
    await page.goto(pathToFileURL(resolve(site, file)).href);
    pages[file] = {};
    for (const width of [400, 1400]) {
      await page.setViewportSize({ width, height: 1000 });
      pages[file][width] = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      for (const colorScheme of folder ? ["light", "dark"] : []) {
        await page.emulateMedia({ colorScheme });
        await page.screenshot({
          path: join(folder, `${file.replaceAll("/", "-").replace(".html", "")}-${width}-${colorScheme}.png`),
          fullPage: true,
        });
      }
    }
  }

  await page.setViewportSize({ width: 1400, height: 1000 });
  await page.goto(pathToFileURL(resolve(site, "index.html")).href);
  await page.locator('input[name="q"]').first().fill("replay");
  await page.locator('input[name="q"]').first().press("Enter");
  await page.locator("#search-results p.search-summary", { hasText: "found" }).waitFor();
  const found = await page.locator("#search-results li a").allInnerTexts();
  if (folder) await page.screenshot({ path: join(folder, "found.png") });
  console.log(JSON.stringify({ pages, found, outside, complaints }));
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
