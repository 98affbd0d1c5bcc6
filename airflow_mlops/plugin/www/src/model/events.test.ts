import { describe, expect, it } from "vitest";

import { decision, month, point } from "../fixtures";
import { place, runs, spread, trace } from "./events";

const at = (time: string) => Date.parse(time);

describe("decisions on the axis of the windows", () => {
  it("are placed at their own time if windows are checked as they end", () => {
    const windows = [1, 2, 3].map((number) => point(number));
    const placed = place([decision(1, "2013-02-14T00:00:00Z"), decision(2, "2012-06-01T00:00:00Z")], windows);
    expect(placed.map((event) => event.at)).toEqual([at("2013-02-14T00:00:00Z"), at("2013-01-01T00:00:00Z")]);
  });
  it("are placed behind the window that was checked before them in a backfill", () => {
    const windows = [1, 2, 3].map((number) => point(number, { checked: `2026-01-0${number}T00:00:00Z` }));
    const times = ["2025-12-31T00:00:00Z", "2026-01-01T12:00:00Z", "2026-01-09T00:00:00Z"];
    const placed = place(times.map((time, index) => decision(index, time)), windows);
    expect(placed.map((event) => event.at)).toEqual([month(1).start, month(1).end, month(3).end].map(at));
  });
  it("are placed at the right edge if they are much later than the last window", () => {
    const windows = [1, 2, 3].map((number) => point(number));
    const span = at(month(3).end) - at(month(1).start);
    const [later] = place([decision(1, "2026-01-01T00:00:00Z")], windows);
    expect(later?.at).toBe(at(month(3).end) + 0.15 * span);
  });
  it("are placed side by side if they have the same place, the first one first", () => {
    const events = [30, 10, 31, 95].map((at, seq) => ({ at, decision: decision(seq, "2026-01-03T00:00:00Z") }));
    const placed = spread([...events, { at: 96, decision: decision(4, "2026-01-04T00:00:00Z") }], (at) => at, 100);
    expect(placed.map(({ decision: { seq }, first, offset, x }) => [seq, x, offset, first])).toEqual([
      [1, 10, 0, true],
      [0, 30, 0, true],
      [2, 30, 15, false],
      [3, 95, -15, true],
      [4, 95, 0, false],
    ]);
  });
  it("are not placed if there is no window", () => {
    expect(place([decision(1, "2013-01-01T00:00:00Z")], [])).toEqual([]);
  });
});

it("joins consecutive windows of one version, and keeps a version that returns apart", () => {
  const windows = [1, 1, null, 1, 2, 1].map((version, index) => point(index + 1, { version }));
  expect(runs(windows).map(({ version }) => version)).toEqual([1, 2, 1]);
  expect(runs(windows)[0]).toEqual({ version: 1, start: at(month(1).start), end: at(month(4).end) });
});

describe("lines through the windows", () => {
  const middles = (values: (number | null)[]) => {
    const windows = values.map((_, index) => point(index + 1));
    return trace(windows, (found) => values[windows.indexOf(found)] ?? null).map((found) => found && [found.at, found.value]);
  };
  it("draw a value without a neighbour across its window", () => {
    expect(middles([0.7])).toEqual([[at(month(1).start), 0.7], [at(month(1).end), 0.7]]);
  });
  it("connect the middles of neighbours, and stop where there is no value", () => {
    const middle = (number: number) => (at(month(number).start) + at(month(number).end)) / 2;
    expect(middles([0.7, 0, null, 0.6])).toEqual([
      [middle(1), 0.7], [middle(2), 0], null, [at(month(4).start), 0.6], [at(month(4).end), 0.6],
    ]);
  });
});
