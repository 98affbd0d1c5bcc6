// Uses the pages of the plugin in a real browser, as a user does. Reads commands, and prints what each found, as lines of JSON.
//
// node ui.mjs BASE_URL TOKEN; test_live_ui.py runs it. All commands share a browser, because each browser takes seconds of CPU
// time to start and to compile Airflow's pages.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const require = createRequire(new URL("../../airflow_mlops/plugin/www/package.json", import.meta.url));
const { chromium } = require("playwright-core");
const AXE = require.resolve("axe-core/axe.min.js");

const [, , base, token] = process.argv;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, colorScheme: "light" });
await context.addCookies([{ name: "_token", value: token, url: base }]);
let problems = [];
let hosts = new Set();

const open = async () => {
  const page = await context.newPage();
  page.setDefaultTimeout(120000);
  page.on("pageerror", (error) => problems.push(`${page.url()}: ${error.message}`));
  page.on("dialog", (dialog) => {
    problems.push(`${page.url()}: a script ran: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on("request", (request) => new URL(request.url()).host && hosts.add(new URL(request.url()).host));
  return page;
};

/** The part of the page that belongs to the plugin, when it shows `text` and loads nothing any more. */
const shown = async (page, text) => {
  const root = page.getByTestId("mlops");
  try {
    await root.getByText(text).filter({ visible: true }).first().waitFor();
  } catch (error) {
    throw new Error(`${page.url()} does not show ${text}, but: ${await page.locator("body").innerText()}`, { cause: error });
  }
  await root.getByRole("status", { name: "Loading" }).first().waitFor({ state: "hidden" });
  return root;
};

const visit = async (page, path, text) => {
  await page.goto(base + path);
  return shown(page, text);
};

/** Go to another page within the running UI, as a click on a link does. */
const go = async (page, path, text) => {
  await page.evaluate((target) => {
    history.pushState({}, "", target);
    dispatchEvent(new PopStateEvent("popstate"));
  }, path);
  // The text may stand on the page before as well.
  const tab = new URLSearchParams(path.split("?")[1]).get("tab");
  if (tab) await page.getByRole("tab", { name: new RegExp(tab, "i"), selected: true }).waitFor();
  return shown(page, text);
};

/** Each page with its texts, in both colour modes, wide and narrow: what axe finds, and what is wider than the screen. */
const pages = async (list) => {
  const page = await open();
  await visit(page, ...list[0]);
  await page.addScriptTag({ path: AXE });
  for (const [path, ...texts] of list) {
    const root = await go(page, path, texts[0]);
    for (const [mode, width] of [["light", 1280], ["light", 400], ["dark", 400], ["dark", 1280]]) {
      const place = `${path} ${mode} ${width}`;
      await page.setViewportSize({ width, height: 900 });
      await page.emulateMedia({ colorScheme: mode });
      // The mode is a class of the page, which Airflow sets after the browser's preference has changed.
      await page.locator(`html.${mode}`).waitFor();
      for (const text of texts) await shown(page, text);
      const wide = await root.evaluate((element) => element.scrollWidth - element.clientWidth);
      if (wide > 1) problems.push(`${place}: ${wide} pixels wider than the screen`);
      const { violations } = await page.evaluate(() => globalThis.axe.run("[data-testid=mlops]", { resultTypes: ["violations"] }));
      for (const { id, impact, nodes } of violations) {
        if (["serious", "critical"].includes(impact)) problems.push(`${place}: ${id} at ${nodes[0].html.slice(0, 200)}`);
      }
    }
    // The next page is waited for in the layout in which it is looked for.
    await page.setViewportSize({ width: 1280, height: 900 });
  }
  return {};
};

/** Press Tab until `selector` has the focus. */
const tabTo = async (page, selector) => {
  for (let presses = 0; presses < 80; presses += 1) {
    await page.keyboard.press("Tab");
    if (await page.evaluate((wanted) => document.activeElement?.matches(wanted), selector)) return;
  }
  throw new Error(`${selector} cannot be reached with the Tab key.`);
};

/** From the list to the second window of a model, its drift and a dialog, with keys only. */
const keyboard = async (name, second) => {
  const page = await open();
  await visit(page, `/plugin/mlops?q=${encodeURIComponent(name)}`, name);
  await tabTo(page, `a[href$="/plugin/mlops/${encodeURIComponent(name)}"]`);
  await page.keyboard.press("Enter");
  await page.getByRole("slider").waitFor();
  await tabTo(page, "[role=slider]");
  await page.keyboard.press("Home");
  await page.keyboard.press("ArrowRight");
  await page.locator(`[role=slider][aria-valuetext="${second}"]`).waitFor();
  await page.getByRole("tab", { name: "Timeline" }).focus();
  await page.keyboard.press("ArrowRight");
  const map = page.getByRole("table", { name: "Drift of features by window" });
  await map.waitFor();
  await tabTo(page, "[data-cell]");
  await page.keyboard.press("ArrowLeft");
  await page.keyboard.press("Enter");
  await page.getByRole("table", { name: /^Distribution of/ }).waitFor();
  await page.getByRole("button", { name: "Request retraining" }).focus();
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "hidden" });
  return {};
};

/** Click actions one after the other, write a text, confirm, and return what the page says happened each time. */
const act = async (name, list) => {
  const page = await open();
  await visit(page, `/plugin/mlops/${encodeURIComponent(name)}`, name);
  const said = [];
  for (const [action, confirm, text] of list) {
    await page.getByTestId("mlops").getByRole("button", { name: action, exact: true }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByRole("textbox").fill(text);
    await dialog.getByRole("button", { name: confirm }).click();
    const happened = dialog.getByRole("status").or(dialog.getByRole("alert")).filter({ hasText: /./ }).first();
    said.push(await happened.textContent());
    await dialog.getByRole("button", { name: "Close" }).first().click();
    await dialog.waitFor({ state: "hidden" });
  }
  return { said };
};

try {
  for await (const line of createInterface({ input: process.stdin })) {
    const [command, ...args] = JSON.parse(line);
    [problems, hosts] = [[], new Set()];
    let found;
    try {
      found = await { pages, keyboard, act }[command](...args);
    } catch (error) {
      found = { error: String(error.stack) };
    }
    await Promise.all(context.pages().map((page) => page.close()));
    console.log(JSON.stringify({ ...found, problems, hosts: [...hosts] }));
  }
} finally {
  await browser.close();
}
