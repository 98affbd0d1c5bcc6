import { ChakraProvider, defaultSystem } from "@chakra-ui/react";
import { cleanup, fireEvent, render, screen } from "@testing-library/react";
import { MemoryRouter } from "react-router-dom";
import { afterEach, expect, it, vi } from "vitest";

import { decision, month, overview, point, version } from "../fixtures";
import { ModelPage } from "./ModelPage";

afterEach(cleanup);

const planted = "<img src=x onerror=alert(1)>";
const gate = { gate: planted, measured: 0.7, asked: 0.6, passed: false, explanation: planted };
const ANSWERS: Record<string, unknown> = {
  "/mlops/api/models/m": {
    ...overview("m", "watch"),
    details: [planted],
    windows: [point(1), point(2, { headline: planted, metric: "brier" }), point(3)],
    decisions: [
      decision(1, "2013-02-01T00:00:00Z", {
        reason: `${planted} was refused. ${"Why ".repeat(100)}`,
        candidates: [{ version: 2, passed: false, reason: planted, metrics: {}, gates: [gate] }],
      }),
      decision(2, "2013-02-02T00:00:00Z", {
        decision: "deployed",
        endpoint: { version: { version: 2 }, follows: true, kind: "Deployment", namespace: "serving", name: "m" },
      }),
      decision(3, "2013-02-03T00:00:00Z", { decision: "of_a_newer_release" }),
      decision(4, "2013-02-04T00:00:00Z", { decision: "canary_widened", canary: { version: { version: 2 }, share: 0.055 } }),
    ],
    chain: { intact: false, problem: "Entry 1 was changed." },
  },
  "/mlops/api/models/m/data": {
    datasets: [
      {
        name: planted,
        windows: [
          {
            window: { start: "2013-01-01T00:00:00Z", end: "2013-04-01T00:00:00Z", label: "2013-Q1" },
            id: "a", rows: 2000, quarantined: 7, replaced: 0,
          },
        ],
        missing: [{ start: "2013-04-01T00:00:00Z", end: "2013-07-01T00:00:00Z", label: "2013-Q2" }],
      },
    ],
    lineage: {
      nodes: [
        { id: "m v1", kind: "model", name: "m", label: "v1" },
        { id: "f", kind: "dataset", name: planted, label: "f" },
      ],
      edges: [["f", "m v1"]],
    },
  },
  "/mlops/api/models/m/versions": {
    versions: [
      version(2, {
        judged: 1,
        steps: ["refit", "train"],
        usage: { seconds: 10, cpu_seconds: 7.5, gpu_seconds: null, peak_memory_mb: 300, read_bytes: 2e6, written_bytes: 0, rows: 5000 },
      }),
      version(1, {
        run_id: "run", champion: true, gates: [gate, { ...gate, gate: "same signature", measured: null, passed: true }], params: { [planted]: { deep: 3 } }, mlflow_url: "javascript:alert(1)",
        metrics: { roc_auc: { value: 0.7, low: 0.68, high: 0.72 }, fit_seconds: { value: 12, low: null, high: null } },
      }),
    ],
    problems: ["MLflow does not know version 9."],
  },
};

const show = (tab: string, name = "m") => {
  vi.spyOn(HTMLElement.prototype, "clientWidth", "get").mockReturnValue(1000);
  vi.stubGlobal("fetch", (url: string) =>
    Promise.resolve(new Response(JSON.stringify(ANSWERS[new URL(url).pathname] ?? {}), { status: 200 })),
  );
  render(
    <ChakraProvider value={defaultSystem}>
      <MemoryRouter initialEntries={[`/plugin/mlops/${name}?tab=${tab}`]}>
        <ModelPage name={name} />
      </MemoryRouter>
    </ChakraProvider>,
  );
};

it("walks through the windows with the arrow keys", async () => {
  show("timeline");
  const chart = await screen.findByRole("slider");
  fireEvent.keyDown(chart, { key: "ArrowLeft" });
  fireEvent.keyDown(chart, { key: "ArrowLeft" });
  expect(chart.getAttribute("aria-valuetext")).toBe("2013-02");
  expect(screen.getAllByText(planted).length).toBeGreaterThan(0);
  expect(screen.getAllByRole("link", { name: "Report of 2013-02" })[0]?.getAttribute("href")).toMatch(
    /mlops\/artifacts\/reports\/m\/2\.html$/,
  );
  expect(document.querySelector("img")).toBeNull();
});

it("shows which windows have no value of the metric", async () => {
  show("timeline");
  await screen.findByRole("slider");
  const titles = [...document.querySelectorAll("[data-window] title")].map((title) => title.textContent);
  expect(titles.map((title) => title?.includes("no value"))).toEqual([false, true, false]);
});

it("shows where the chain of the ledger is broken", async () => {
  show("decisions");
  expect(await screen.findByText(/Entry 1 was changed\./)).toBeTruthy();
  expect(document.querySelector("img")).toBeNull();
});

it("shows where the ledger differs from the hashes in MLflow, which the chain cannot show", async () => {
  const page = ANSWERS["/mlops/api/models/m"] as object;
  ANSWERS["/mlops/api/models/n"] = { ...page, name: "n", chain: { intact: true, problem: null } };
  ANSWERS["/mlops/api/models/n/versions"] = { versions: [], ledger: "Entry 4 was changed.", problems: [] };
  show("decisions", "n");
  expect(await screen.findByText("Entry 4 was changed.")).toBeTruthy();
});

it("shows the first sentence of a long reason", async () => {
  show("decisions");
  const first = await screen.findByText(`${planted} was refused.`);
  expect(first.tagName).toBe("SUMMARY");
  expect(first.parentElement?.textContent).toContain("Why Why");
});

it("shows deployments, and kinds of entries that a newer release has written", async () => {
  show("decisions");
  expect(await screen.findByText("Deployment")).toBeTruthy();
  expect(screen.getByText("version 2 (follows the champion), serving/m")).toBeTruthy();
  expect(screen.getByText("of a newer release")).toBeTruthy();
  expect(screen.getByText(/version 2 answers 5.5% of the requests/)).toBeTruthy();
});

it("shows the figures of the fit separately from the metrics on held-out data", async () => {
  show("versions");
  await screen.findByText("fit_seconds");
  const titles = [...document.querySelectorAll("tbody tr:first-child")].map((row) => [row.textContent, row.nextSibling?.textContent]);
  expect(titles).toContainEqual(["Metrics on held-out data (95% confidence interval)", "roc_auc0.700 (0.680 to 0.720)–"]);
  expect(titles).toContainEqual(["Fit and conversion to ONNX", "fit_seconds12–"]);
});

it("shows the measured value of a gate, if the gate measures one", async () => {
  show("versions");
  const cells = [...((await screen.findByText("same signature")).closest("tr")?.cells ?? [])].map((cell) => cell.textContent);
  expect(cells).toEqual(["same signature", "✓ passed", "–"]);
  expect(screen.getByText(/failed/).textContent).toBe("✕ failed (0.700)");
});

it("adds up the resources of a version's steps, and names the version whose metrics a refit shows", async () => {
  show("versions");
  const row = (name: string) => [...(screen.getByText(name).closest("tr")?.cells ?? [])].map((cell) => cell.textContent);
  await screen.findByText("throughput");
  expect(row("steps")).toEqual(["steps", "–", "refit, train"]);
  expect(row("throughput")).toEqual(["throughput", "–", "500 rows/s"]);
  expect(row("read from the artifact store")).toEqual(["read from the artifact store", "–", "2 MB"]);
  expect(screen.queryByText("GPU time")).toBeNull();
  expect(screen.getByText("fitted again from version 1, whose metrics are shown")).toBeTruthy();
});

it("shows what has changed since the verdict, and who may answer a pending approval", async () => {
  const page = ANSWERS["/mlops/api/models/m"] as object;
  const champion = { version: 9, since: "2013-05-01T00:00:00Z", by: null, reason: "It passed." };
  const approval = { dag_id: "d", run_id: "r", task_id: "t", map_index: -1, subject: planted, assignees: ["bob"], can_answer: false };
  const training = { dag_id: "train", run_id: "r 1", task_id: "fit", map_index: -1 };
  const request = { id: "1", reason: planted, created: month(4).start, state: "answered", by: null, started: month(4).start, training };
  ANSWERS["/mlops/api/models/o"] = { ...page, name: "o", champion, approval, request };
  show("timeline", "o");
  expect(await screen.findByText(/After this verdict, version 9 became champion/)).toBeTruthy();
  expect(screen.getByText(/Assigned users: bob/)).toBeTruthy();
  expect(screen.getByRole("link", { name: planted }).getAttribute("href")).toBe("/dags/d/runs/r/tasks/t/required_actions");
  expect(screen.getByRole("link", { name: "The training in DAG train" }).getAttribute("href")).toBe("/dags/train/runs/r%201");
  cleanup();
  show("timeline");
  await screen.findByRole("slider");
  expect(screen.queryByText(/After this verdict/)).toBeNull();
});

it("makes no link of an address that is a script", async () => {
  show("versions");
  expect(await screen.findByText("run")).toBeTruthy();
  expect(document.querySelector("a[href^=javascript]")).toBeNull();
  expect(screen.getByText("MLflow does not know version 9.")).toBeTruthy();
});

it("shows the windows of each dataset, and those that are missing", async () => {
  show("data");
  expect(await screen.findByText("2013-Q1: 2,000 rows, 7 quarantined")).toBeTruthy();
  expect(screen.getByText("2013-Q2: missing")).toBeTruthy();
});

it("puts months into the columns of a calendar, whatever their time zone", async () => {
  const found = (number: number, shift = "T00:00:00Z") => {
    const { end, label, start } = month(number);
    const window = { start: start.replace("T00:00:00Z", shift), end: end.replace("T00:00:00Z", shift), label };
    return { window, id: label, rows: 5, quarantined: 0, replaced: 0 };
  };
  ANSWERS["/mlops/api/models/p"] = { ...(ANSWERS["/mlops/api/models/m"] as object), name: "p" };
  ANSWERS["/mlops/api/models/p/data"] = {
    datasets: [
      { name: "raw", windows: [found(2), found(6)], missing: [{ start: month(3).start, end: month(5).end, label: "gap" }] },
      // Midnight of April in Berlin, and midnight of May in Honolulu.
      { name: "zones", windows: [{ ...found(4), window: { start: "2013-03-31T22:00:00Z", end: "2013-04-30T22:00:00Z", label: "berlin" } }, found(5, "T10:00:00Z")], missing: [] },
    ],
    lineage: { nodes: [], edges: [] },
  };
  show("data", "p");
  await screen.findByText("2013-02: 5 rows");
  const columns = [...document.querySelectorAll("li")].map((item) => [item.title.split(":")[0], item.style.gridColumn]);
  expect(columns.filter(([, column]) => column)).toEqual([
    ["2013-02", "2 / span 1"], ["gap", "3 / span 3"], ["2013-06", "6 / span 1"], ["berlin", "4 / span 1"], ["2013-05", "5 / span 1"],
  ]);
});

it("loads the other features of a model that has many", async () => {
  const drift = (count: number) => ({
    features: Array.from({ length: count }, (_, number) => ({ column: `f${number}`, importance: null })),
    windows: [month(1)],
    cells: Array.from({ length: count }, () => [{ effect: 0.1, drifted: false, broken: false }]),
  });
  ANSWERS["/mlops/api/models/m/drift"] = drift(30);
  show("drift");
  const more = await screen.findByRole("button", { name: "Show all features" });
  ANSWERS["/mlops/api/models/m/drift"] = drift(60);
  fireEvent.click(more);
  expect(await screen.findByText("f59")).toBeTruthy();
  expect(screen.queryByRole("button", { name: "Show all features" })).toBeNull();
});
