import { ChakraProvider, defaultSystem } from "@chakra-ui/react";
import { cleanup, fireEvent, render, screen } from "@testing-library/react";
import { MemoryRouter } from "react-router-dom";
import { afterEach, expect, it, vi } from "vitest";

import { decision, overview, point } from "../fixtures";
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
      {
        version: 1, run_id: "run", created: null, champion: true, challenger: false, gates: [gate],
        metrics: { roc_auc: { value: 0.7, low: null, high: null }, fit_seconds: { value: 12, low: null, high: null } },
        params: { [planted]: { deep: 3 } }, dataset: null, card: null, mlflow_url: "javascript:alert(1)",
      },
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

it("says which windows have no value of the metric", async () => {
  show("timeline");
  await screen.findByRole("slider");
  const titles = [...document.querySelectorAll("[data-window] title")].map((title) => title.textContent);
  expect(titles.map((title) => title?.includes("no value"))).toEqual([false, true, false]);
});

it("says where the chain of the ledger is broken", async () => {
  show("decisions");
  expect(await screen.findByText(/Entry 1 was changed\./)).toBeTruthy();
  expect(document.querySelector("img")).toBeNull();
});

it("says where the ledger differs from the hashes in MLflow, which the chain cannot show", async () => {
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

it("keeps the metrics of the fit apart from those on held-out data", async () => {
  show("versions");
  await screen.findByText("fit_seconds");
  const titles = [...document.querySelectorAll("tbody tr:first-child")].map((row) => [row.textContent, row.nextSibling?.textContent]);
  expect(titles).toContainEqual(["Metrics on held-out data", "roc_auc0.700"]);
  expect(titles).toContainEqual(["Fit and conversion to ONNX", "fit_seconds12"]);
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
