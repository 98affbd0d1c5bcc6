import type { Decision, Point } from "../api/types";

export type Event = { at: number; decision: Decision };
/** A mark is drawn `offset` pixels beside `x`. Of several marks at the same `x`, only the first has a line below it. */
export type Placed = { x: number; offset: number; first: boolean; decision: Decision };
export type Run = { version: number; start: number; end: number };

/** A place on a line: a time, and what the window has there. */
export type Place<T> = { at: number; value: T };

const ms = Date.parse;
/** Largest distance of a decision from the end of the last window, as a share of the time that all windows span. */
const LATER = 0.15;
const MARK = 15;

/**
 * Places decisions on the time axis of the windows. By default, a decision is placed at its own time.
 *
 * In a backfill, every window was checked after the last window had ended, so the times of decisions are unrelated to the
 * data. A decision is then placed at the end of the newest window that had been checked before the decision, or at the
 * start of the first window. A decision long after the last window is placed at the right edge, so that the windows keep
 * enough room.
 */
export const place = (decisions: Decision[], windows: Point[]): Event[] => {
  const first = windows[0];
  if (first === undefined) return [];
  const lastEnd = Math.max(...windows.map(({ window }) => ms(window.end)));
  const backfill = windows.every(({ checked }) => ms(checked) >= lastEnd);
  const start = ms(first.window.start);
  const end = lastEnd + LATER * (lastEnd - start);
  return [...decisions]
    .sort((one, other) => one.seq - other.seq)
    .map((decision) => {
      const time = ms(decision.time);
      const before = windows.filter(({ checked }) => ms(checked) <= time);
      const at = Math.max(start, ...(backfill ? before.map(({ window }) => ms(window.end)) : [time]));
      return { at: Math.min(end, at), decision };
    });
};

/** Places marks that would overlap side by side: to the right, or to the left if there is no room to the right. */
export const spread = (events: Event[], x: (at: number) => number, width: number): Placed[] => {
  const groups: Event[][] = [];
  for (const event of [...events].sort((one, other) => one.at - other.at)) {
    const group = groups.at(-1);
    const start = group?.[0];
    if (group && start && x(event.at) < x(start.at) + group.length * MARK) group.push(event);
    else groups.push([event]);
  }
  return groups.flatMap((group) => {
    const place = x(group[0]?.at ?? 0);
    const left = place + group.length * MARK > width;
    return group.map(({ decision }, rank) => ({
      x: place,
      offset: (left ? rank - group.length + 1 : rank) * MARK,
      first: rank === 0,
      decision,
    }));
  });
};

/** Spans of consecutive windows whose predictions one version made. */
export const runs = (windows: Point[]): Run[] => {
  const found: Run[] = [];
  for (const { version, window } of windows) {
    const last = found.at(-1);
    if (version === null) continue;
    if (last?.version === version) last.end = ms(window.end);
    else found.push({ version, start: ms(window.start), end: ms(window.end) });
  }
  return found;
};

/**
 * The places of a line through the middles of the windows; null where the line is interrupted. A line needs two places, so a
 * value without a neighbour is a line across its window.
 */
export const trace = <T>(windows: Point[], of: (point: Point) => T | null): (Place<T> | null)[] => {
  const values = windows.map(of);
  return windows.flatMap(({ window }, index) => {
    const value = values[index] ?? null;
    if (value === null) return [null];
    const [start, end] = [ms(window.start), ms(window.end)];
    const alone = (values[index - 1] ?? null) === null && (values[index + 1] ?? null) === null;
    return (alone ? [start, end] : [(start + end) / 2]).map((at) => ({ at, value }));
  });
};
