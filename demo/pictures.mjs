// Takes the pictures of the documentation from a running demo that has replayed the whole year (`make demo DETACH=1`).
//
// node demo/pictures.mjs AIRFLOW_URL FOLDER; `make pictures` runs it.
import { createRequire } from "node:module";

const require = createRequire(new URL("../airflow_mlops/plugin/www/package.json", import.meta.url));
const { chromium } = require("playwright-core");

const [, , airflow, folder] = process.argv;
const MODEL = "/plugin/mlops/flight_delays";
const MONTH = "2013-06";

const token = (await (await fetch(`${airflow}/auth/token`)).json()).access_token;

const ask = async (path) => {
  const response = await fetch(airflow + path, { headers: { Authorization: `Bearer ${token}` } });
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  return response.json();
};

/** The newest run of the training DAG. */
const newestTraining = async () => {
  const { dag_runs } = await ask("/api/v2/dags/flights_train/dagRuns?order_by=-id&limit=1");
  return dag_runs[0].dag_run_id;
};

const reportOf = async (month) => {
  const { windows } = await ask("/mlops/api/models/flight_delays");
  const found = windows.find(({ window }) => window.label === month);
  if (!found) throw new Error(`The demo has not monitored ${month}.`);
  return `/mlops/artifacts/${found.report}`;
};

const task = `/dags/flights_train/runs/${encodeURIComponent(await newestTraining())}/tasks/evaluate/plugin/mlops-result`;
const PICTURES = [
  { file: "airflow", path: "/dags/flights_train", text: "Last 24 Hours", width: 1500, height: 900 },
  { file: "report", path: await reportOf(MONTH), text: `flight_delays · ${MONTH}`, width: 1024, height: 1480 },
  { file: "ui-model", path: MODEL, text: "retraining request", width: 1280, height: 860 },
  { file: "ui-drift", path: `${MODEL}?tab=drift`, text: "Features are ranked", width: 1280, height: 900, mode: "dark" },
  { file: "ui-task", path: task, text: "passed every gate", width: 1280, height: 900 },
];

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
try {
  for (const { file, path, text, width, height, mode = "light" } of PICTURES) {
    const context = await browser.newContext({ viewport: { width, height }, colorScheme: mode });
    await context.addCookies([{ name: "_token", value: token, url: airflow }]);
    const page = await context.newPage();
    page.setDefaultTimeout(120000);
    await page.goto(airflow + path);
    await page.getByText(text).filter({ visible: true }).first().waitFor();
    for (const sign of [page.getByRole("status", { name: "Loading" }), page.locator(".chakra-skeleton")]) {
      await sign.first().waitFor({ state: "hidden" });
    }
    // Charts of Airflow grow into their place.
    await page.waitForTimeout(2000);
    await page.screenshot({ path: `${folder}/${file}.png`, animations: "disabled" });
    await context.close();
    console.log(`${folder}/${file}.png`);
  }
} finally {
  await browser.close();
}
