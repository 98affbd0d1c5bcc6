import { ChakraProvider, defaultSystem } from "@chakra-ui/react";
import { cleanup, fireEvent, render, screen, waitFor } from "@testing-library/react";
import { afterEach, expect, it, vi } from "vitest";

import type { ModelFacts } from "../api/types";
import { decision, month, overview } from "../fixtures";
import { Actions } from "./Actions";

afterEach(cleanup);

const model = (fields: Partial<ModelFacts> = {}): ModelFacts => ({
  ...overview("a/b", "watch"),
  details: [],
  windows: [],
  decisions: [decision(1, "2013-02-01T00:00:00Z")],
  chain: { intact: true, problem: null },
  ...fields,
});

type Sent = { url: string; method: string; body: unknown };

const show = (facts: ModelFacts, status: number, answer: unknown) => {
  const sent: Sent[] = [];
  const done = vi.fn();
  vi.stubGlobal("fetch", (url: string, init: RequestInit) => {
    sent.push({ url, method: init.method ?? "GET", body: init.body ? JSON.parse(init.body as string) : null });
    return Promise.resolve(new Response(JSON.stringify(answer), { status }));
  });
  render(
    <ChakraProvider value={defaultSystem}>
      <Actions model={facts} onDone={done} />
    </ChakraProvider>,
  );
  return { sent, done };
};
const press = (name: string, last = false) => fireEvent.click(screen.getAllByRole("button", { name }).at(last ? -1 : 0)!);

it("requires a reason, sends the request once, and shows the result", async () => {
  const { done, sent } = show(model(), 200, { message: "Retraining is requested.", decision: null });
  press("Request retraining");
  await screen.findByRole("textbox");
  const confirm = screen.getAllByRole("button", { name: "Request retraining" }).at(-1) as HTMLButtonElement;
  expect(confirm.disabled).toBe(true);
  fireEvent.change(screen.getByRole("textbox"), { target: { value: " It is late. " } });
  press("Request retraining", true);
  expect(await screen.findByText("Retraining is requested.")).toBeTruthy();
  expect(sent).toHaveLength(1);
  expect(sent[0]).toMatchObject({ method: "POST", body: { reason: "It is late." } });
  expect(sent[0]?.url).toMatch(/mlops\/api\/models\/a%2Fb\/retrain$/);
  press("Close");
  await waitFor(() => expect(done).toHaveBeenCalledOnce());
});

it("keeps the dialog open and shows the error if the action failed", async () => {
  const { done } = show(model(), 403, { detail: "You may not edit a DAG of this model." });
  press("Acknowledge");
  await screen.findByRole("textbox");
  press("Acknowledge", true);
  expect((await screen.findByRole("alert")).textContent).toBe("You may not edit a DAG of this model.");
  press("Cancel");
  expect(done).not.toHaveBeenCalled();
});

it("answers a request for approval with Airflow's own API", async () => {
  const approval = { dag_id: "d", run_id: "scheduled__2013-01-01T00:00:00+00:00", task_id: "g.promote", map_index: -1, subject: "Promote?", assignees: [], can_answer: true };
  const { sent } = show(model({ approval, can_act: false }), 200, {});
  press("Approve");
  await screen.findByRole("textbox");
  press("Approve", true);
  await screen.findByText(/The promotion is approved/);
  expect(sent[0]).toMatchObject({ method: "PATCH", body: { chosen_options: ["Approve"], params_input: { note: "" } } });
  expect(sent[0]?.url).toMatch(
    /api\/v2\/dags\/d\/dagRuns\/scheduled__2013-01-01T00%3A00%3A00%2B00%3A00\/taskInstances\/g\.promote\/-1\/hitlDetails$/,
  );
});

it("offers no answer to users whom Airflow does not let answer", () => {
  const approval = { dag_id: "d", run_id: "r", task_id: "t", map_index: -1, subject: "Promote?", assignees: ["bob"], can_answer: false };
  show(model({ approval }), 200, {});
  expect(screen.queryByRole("button", { name: "Approve" })).toBeNull();
  expect(screen.getByRole("button", { name: "Request retraining" })).toBeTruthy();
});

it("offers no action to users who may not act, and no second acknowledgement", () => {
  const seen = model();
  seen.monitoring!.acknowledged = { by: "admin", at: month(4).start, note: "" };
  show(seen, 200, {});
  expect(screen.queryByRole("button", { name: "Acknowledge" })).toBeNull();
  cleanup();
  show(model({ can_act: false }), 200, {});
  expect(screen.queryAllByRole("button")).toHaveLength(0);
});
