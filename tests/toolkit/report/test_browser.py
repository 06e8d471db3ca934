"""The page in a real browser: no error, no request, no sideways scrolling, nothing that a screen reader would miss."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PACKAGES = ("playwright-core@1.65.1", "axe-core@4.14.1")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

SCRIPT = """
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [executablePath, address, folder] = process.argv.slice(2);
const axe = readFileSync("node_modules/axe-core/axe.min.js", "utf8");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const found = [];
for (const width of [390, 1440]) {
  for (const colorScheme of ["light", "dark"]) {
    const view = { viewport: { width, height: 900 }, colorScheme };
    const page = await (await browser.newContext(view)).newPage();
    const messages = [], requests = [];
    page.on("console", (message) => messages.push(message.text()));
    page.on("pageerror", (error) => messages.push(String(error)));
    page.on("request", (request) => requests.push(request.url()));
    await page.goto(address);
    await page.keyboard.press("Tab");
    const focused = await page.evaluate(() => document.activeElement.className);
    await page.evaluate(() => document.querySelectorAll("details").forEach((each) => (each.open = true)));
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    await page.screenshot({ path: `${folder}/${width}-${colorScheme}.png`, fullPage: true });
    const checked = await (await browser.newContext({ ...view, bypassCSP: true })).newPage();
    await checked.goto(address);
    await checked.evaluate(() => document.querySelectorAll("details").forEach((each) => (each.open = true)));
    await checked.addScriptTag({ content: axe });
    const violations = (await checked.evaluate(() => window.axe.run())).violations;
    const serious = violations.filter((each) => ["serious", "critical"].includes(each.impact));
    const findings = serious.map((each) => `${each.id}: ${each.nodes[0].html.slice(0, 200)}`);
    found.push({ width, colorScheme, messages, requests, focused, wide, findings });
  }
}
console.log(JSON.stringify(found));
await browser.close();
"""


@pytest.fixture(scope="module")
def seen(report_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path, str]:
    """What the browser found, the folder of its screenshots, and the page's address."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser is installed: none of {', '.join(BROWSERS)}")
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "look.mjs").write_text(SCRIPT, encoding="utf-8")
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", ".", *PACKAGES]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install the packages: {done.stderr.strip().splitlines()[0]}")
    command = ["node", "look.mjs", browser, report_path.as_uri(), "."]
    looked = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert looked.returncode == 0, looked.stderr
    return json.loads(looked.stdout), folder, report_path.as_uri()


@pytest.mark.slow
def test_the_page_in_a_browser(seen: tuple[list[dict[str, Any]], Path, str]) -> None:
    found, folder, address = seen
    assert [(each["width"], each["colorScheme"]) for each in found] == [
        (width, scheme) for width in (390, 1440) for scheme in ("light", "dark")
    ]
    for each in found:
        where = f"{each['width']} pixels, {each['colorScheme']}"
        assert each["messages"] == [], where
        assert {url for url in each["requests"] if not url.startswith("data:")} == {address}, where
        assert each["wide"] <= each["width"], f"{where}: the page scrolls sideways"
        assert each["findings"] == [], where
        assert each["focused"] == "skip", f"{where}: the first stop of the keyboard"
        with Image.open(folder / f"{each['width']}-{each['colorScheme']}.png") as picture:
            corner = np.array(picture.convert("L"))[:20, :20]
            assert picture.width == each["width"]
        assert (corner.mean() < 60) == (each["colorScheme"] == "dark"), where
