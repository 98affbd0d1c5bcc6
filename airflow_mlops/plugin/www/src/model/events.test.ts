import { describe, expect, it } from "vitest";

import { decision, month, point } from "../fixtures";
import { place, runs } from "./events";

const at = (time: string) => Date.parse(time);

describe("decisions on the axis of the windows", () => {
  it("stand at their own time while windows are checked as they end", () => {
    const windows = [1, 2, 3].map((number) => point(number));
    const placed = place([decision(1, "2013-02-14T00:00:00Z"), decision(2, "2012-06-01T00:00:00Z")], windows);
    expect(placed.map((event) => event.at)).toEqual([at("2013-02-14T00:00:00Z"), at("2013-01-01T00:00:00Z")]);
  });
  it("stand behind the window that had been checked before them in a backfill", () => {
    const windows = [1, 2, 3].map((number) => point(number, { checked: `2026-01-0${number}T00:00:00Z` }));
    const times = ["2025-12-31T00:00:00Z", "2026-01-01T12:00:00Z", "2026-01-09T00:00:00Z"];
    const placed = place(times.map((time, index) => decision(index, time)), windows);
    expect(placed.map((event) => event.at)).toEqual([month(1).start, month(1).end, month(3).end].map(at));
  });
  it("stand side by side at one place, the first one first", () => {
    const windows = [point(1, { checked: "2026-01-01T00:00:00Z" })];
    const placed = place([decision(2, "2026-01-03T00:00:00Z"), decision(1, "2026-01-02T00:00:00Z")], windows);
    expect(placed.map((event) => [event.decision.seq, event.rank])).toEqual([[1, 0], [2, 1]]);
  });
  it("are nowhere without a window", () => {
    expect(place([decision(1, "2013-01-01T00:00:00Z")], [])).toEqual([]);
  });
});

it("joins consecutive windows of one version, and keeps a version that returns apart", () => {
  const windows = [1, 1, null, 1, 2, 1].map((version, index) => point(index + 1, { version }));
  expect(runs(windows).map(({ version }) => version)).toEqual([1, 2, 1]);
  expect(runs(windows)[0]).toEqual({ version: 1, start: at(month(1).start), end: at(month(4).end) });
});
