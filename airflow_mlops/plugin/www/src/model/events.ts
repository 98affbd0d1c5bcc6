import type { Decision, Point } from "../api/types";

/** `rank` counts the earlier decisions at the same place, so that their marks can stand side by side. */
export type Event = { at: number; rank: number; decision: Decision };
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
  const ranks = new Map<number, number>();
  return [...decisions]
    .sort((one, other) => one.seq - other.seq)
    .map((decision) => {
      const time = ms(decision.time);
      const before = windows.filter(({ checked }) => ms(checked) <= time);
      const at = Math.max(start, ...(backfill ? before.map(({ window }) => ms(window.end)) : [time]));
      const rank = ranks.get(at) ?? 0;
      ranks.set(at, rank + 1);
      return { at, rank, decision };
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
