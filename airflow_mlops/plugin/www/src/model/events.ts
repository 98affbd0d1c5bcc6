import type { Decision, Point } from "../api/types";

export type Event = { at: number; decision: Decision };
export type Run = { version: number; start: number; end: number };

const ms = Date.parse;

/**
 * Where decisions stand on the axis of the windows. A decision stands at its own time. In a backfill, every window was
 * checked after the last one had ended, so the times of decisions say nothing about the data: there, a decision stands at
 * the end of the newest window that had been checked before it, or at the start of the first window.
 */
export const place = (decisions: Decision[], windows: Point[]): Event[] => {
  const first = windows[0];
  if (first === undefined) return [];
  const lastEnd = Math.max(...windows.map(({ window }) => ms(window.end)));
  const backfill = windows.every(({ checked }) => ms(checked) >= lastEnd);
  const start = ms(first.window.start);
  return decisions.map((decision) => {
    const time = ms(decision.time);
    if (!backfill) return { at: Math.max(time, start), decision };
    const before = windows.filter(({ checked }) => ms(checked) <= time);
    return { at: Math.max(start, ...before.map(({ window }) => ms(window.end))), decision };
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
