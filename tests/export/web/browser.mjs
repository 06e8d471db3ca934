// Drives the page of a web bundle in headless Chromium and prints what it found as one line of JSON.
// node browser.mjs PLAYWRIGHT CHROMIUM ADDRESS STEPS [FLAGS]. STEPS is a JSON list of [name, ...arguments], FLAGS one of
// Chromium's own flags.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [playwright, chromium, address, steps, flags] = process.argv.slice(2);
const { chromium: launcher } = createRequire(join(playwright, "package.json"))("playwright-core");
const READY = 240_000; // ms; a loaded machine takes its time

const found = { console: [], requests: [], results: [] };
const browser = await launcher.launch({
  executablePath: chromium,
  args: ["--no-sandbox", ...JSON.parse(flags ?? "[]")],
});
const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, acceptDownloads: true });
const page = await context.newPage();
page.setDefaultTimeout(READY);
page.on("console", (message) => {
  if (message.type() === "error") found.console.push(message.text());
});
page.on("pageerror", (error) => found.console.push(String(error)));
page.on("request", (request) => found.requests.push(request.url()));

/** The page has finished what it was asked to do. */
async function settled() {
  await page.waitForFunction(() => {
    const { state } = document.getElementById("verdict").dataset;
    return state === "bad" || (state === "good" && document.getElementById("busy").hidden);
  });
}

const text = (id) => page.locator(`#${id}`).textContent();

const STEPS = {
  async open(width = 1440, height = 900, scheme = "light") {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme: scheme });
    await page.goto(address);
    await settled();
    await page.waitForFunction(() => document.getElementById("picture-size").textContent !== "–");
    return {
      verdict: await text("verdict"),
      state: await page.locator("#verdict").getAttribute("data-state"),
      threads: await text("threads"),
      cores: await page.evaluate(() => navigator.hardwareConcurrency),
      network: await text("time-network"),
      engines: await page.locator("#engine option").allTextContents(),
      backends: await page.locator("#backend option").allTextContents(),
    };
  },
  /** Have the page save the mask of a picture. */
  async labels(file, mask) {
    await page.evaluate(() => document.getElementById("canvas").setAttribute("aria-label", ""));
    await page.locator("#file").setInputFiles(file);
    await page.waitForFunction((name) => document.getElementById("canvas").ariaLabel?.startsWith(name), file.split("/").at(-1));
    const [download] = await Promise.all([page.waitForEvent("download"), page.locator("#save-mask").click()]);
    await download.saveAs(mask);
    return { file: mask, name: download.suggestedFilename(), size: await text("picture-size") };
  },
  /** What the page says of a file that it doesn't take. */
  async refused(file) {
    await page.locator("#file").setInputFiles(file);
    await page.locator("#message").waitFor({ state: "visible" });
    return await text("message");
  },
  async camera() {
    await page.locator("#camera").click();
    await page.locator("#message").waitFor({ state: "visible" });
    return await text("message");
  },
  async choose(id, start) {
    const labels = await page.locator(`#${id} option`).allTextContents();
    await page.locator(`#${id}`).selectOption({ label: labels.find((label) => label.startsWith(start)) });
    await page.waitForFunction(() => !document.getElementById("engine").disabled);
    const message = page.locator("#message");
    return {
      verdict: await text("verdict"),
      threads: await text("threads"),
      message: (await message.isVisible()) ? await message.textContent() : "",
      chosen: await page.locator(`#${id} option:checked`).textContent(),
    };
  },
  async screenshot(file, full = true) {
    await page.screenshot({ path: file, fullPage: full });
    return file;
  },
  async width() {
    return await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  },
  /** What axe-core finds hard to use without eyes or mouse. */
  async axe() {
    await page.evaluate(readFileSync(join(playwright, "node_modules", "axe-core", "axe.min.js"), "utf8"));
    const { violations } = await page.evaluate("axe.run()");
    return violations.map(({ impact, id, nodes }) => `${impact}: ${id}: ${nodes[0].html}`);
  },
};

try {
  for (const [name, ...given] of JSON.parse(steps)) found.results.push(await STEPS[name](...given));
} catch (error) {
  found.error = String(error);
} finally {
  await browser.close();
}
process.stdout.write(`${JSON.stringify(found)}\n`);
