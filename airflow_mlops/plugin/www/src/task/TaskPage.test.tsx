import { ChakraProvider, defaultSystem } from "@chakra-ui/react";
import { cleanup, render, screen } from "@testing-library/react";
import { MemoryRouter } from "react-router-dom";
import { afterEach, expect, it, vi } from "vitest";

import { TaskPage } from "./TaskPage";

afterEach(cleanup);

const TASK = "/mlops/api/tasks/d/r/t/-1";
const planted = "<img src=x onerror=alert(1)>";

/** Show the tab of a task. What the API does not know is 404. */
const show = (answers: Record<string, unknown>, refused: string[] = []) => {
  vi.spyOn(HTMLElement.prototype, "clientWidth", "get").mockReturnValue(700);
  vi.stubGlobal("fetch", (url: string) => {
    const path = new URL(url).pathname;
    const status = refused.includes(path) ? 403 : path in answers ? 200 : 404;
    return Promise.resolve(new Response(JSON.stringify(answers[path] ?? { detail: "no" }), { status }));
  });
  render(
    <ChakraProvider value={defaultSystem}>
      <MemoryRouter>
        <TaskPage dagId="d" mapIndex="-1" runId="r" taskId="t" />
      </MemoryRouter>
    </ChakraProvider>,
  );
};

it("draws the losses of a training that runs", async () => {
  const curves = [
    { metric: "train_loss", points: [[0, 0.7], [1, 0.5]] },
    { metric: "validation_loss", points: [[0, 0.8], [1, null]] },
  ];
  show({ [`${TASK}/progress`]: { run_url: "http://mlflow/#/runs/a", status: "RUNNING", curves, trials: [], problems: [] } });
  const chart = await screen.findByRole("img", { name: "Loss by epoch, 2 epochs: train loss 0.500, validation loss 0.800" });
  expect(chart.querySelectorAll("path[stroke-width='2']").length).toBe(2);
  expect(screen.getByText("The loss is infinite or NaN in some epochs.")).toBeTruthy();
});

it("lists the trials of a search that runs", async () => {
  const trials = [
    { number: 1, state: "running", metrics: {}, params: { depth: "3" } },
    { number: 0, state: "complete", metrics: { roc_auc: 0.71 }, params: { depth: planted } },
  ];
  show({ [`${TASK}/progress`]: { run_url: null, status: "RUNNING", curves: [], trials, problems: [] } });
  expect(await screen.findByText("1 running, 1 complete")).toBeTruthy();
  expect(screen.getByText("roc_auc 0.710")).toBeTruthy();
  expect(document.querySelector("img")).toBeNull();
});

it("says if a task has neither a result nor a run", async () => {
  show({});
  expect(await screen.findByText(/no machine-learning result/)).toBeTruthy();
});

it("shows the checks of a split", async () => {
  const split = { method: "time", test_size: "P14D", time: { test: ["2013-03-18", "2013-03-31"] }, overlap: 0, row_ids: { test: "abc" }, gap: { duration: "7D", rows: 168 } };
  show({ [TASK]: { kind: "training_set", model: null, summary: "Built.", result: { rows: { train: 5 } }, split } });
  expect(await screen.findByText("2013-03-18 to 2013-03-31")).toBeTruthy();
  expect(screen.getByText("gap before test, duration").closest("tr")?.textContent).toContain("7D");
  expect(screen.getByText("rows in both parts").closest("tr")?.textContent).toContain("0");
});

it("shows what the task used", async () => {
  const usage = { seconds: 2, cpu_seconds: 1.5, gpu_seconds: null, peak_memory_mb: 312, read_bytes: 1_500_000, written_bytes: 0, rows: 500 };
  show({ [TASK]: { kind: "other", model: null, summary: "Ingested.", result: { usage } } });
  expect((await screen.findByText("peak memory")).closest("tr")?.textContent).toContain("312 MB");
  expect(screen.getByText("throughput").closest("tr")?.textContent).toContain("250 rows/s");
  expect(screen.getByText("read from the artifact store").closest("tr")?.textContent).toContain("1.500 MB");
  expect(screen.queryByText("GPU time")).toBeNull();
});

const validated = {
  kind: "validate", model: null, summary: "1 of 2 failed.", result: { outcomes: [], docs_url: "", quarantined: { rows: 300 } },
};

it("shows the first quarantined rows as text", async () => {
  const samples = { dataset: { rows: 300 }, columns: ["failed_expectations", "name"], rows: [["name is set", null], ["short", planted]] };
  show({ [TASK]: validated, [`${TASK}/samples`]: samples });
  expect(await screen.findByText("The first 2 of 300 rows:")).toBeTruthy();
  expect(screen.getByText("null")).toBeTruthy();
  expect(screen.getByText(planted)).toBeTruthy();
  expect(document.querySelector("img")).toBeNull();
});

it("shows the severity of each expectation, also of results without it", async () => {
  const outcomes = [
    { expectation: "short", success: false, unexpected: 2, severity: "warning" },
    { expectation: "old", success: false, unexpected: 1 },
  ];
  show({ [TASK]: { ...validated, result: { outcomes, docs_url: "", quarantined: null } } });
  expect((await screen.findByText("short")).closest("tr")?.textContent).toContain("not metwarningshort2");
  expect(screen.getByText("old").closest("tr")?.textContent).toContain("not metcriticalold1");
});

it("shows no rows to users who may not read assets", async () => {
  show({ [TASK]: validated }, [`${TASK}/samples`]);
  expect(await screen.findByText(/permission to read assets/)).toBeTruthy();
});
