/** Numbers and times as text. Times are UTC, because the windows of the data are. */

const UNITS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["year", 31_557_600],
  ["month", 2_629_800],
  ["day", 86_400],
  ["hour", 3600],
  ["minute", 60],
];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "always", style: "short" });

/** How long ago a time is, such as "3 days ago". */
export const ago = (time: string, now = Date.now()): string => {
  const seconds = (Date.parse(time) - now) / 1000;
  if (Number.isNaN(seconds)) return time;
  for (const [unit, length] of UNITS) {
    if (Math.abs(seconds) >= length) return relative.format(Math.trunc(seconds / length), unit);
  }
  return "just now";
};

/** A time such as "2013-04-01 06:30 UTC"; at midnight only the date. */
export const moment = (time: string): string => {
  const parsed = new Date(time);
  if (Number.isNaN(parsed.getTime())) return time;
  const [day = "", clock = ""] = parsed.toISOString().split("T");
  return clock.startsWith("00:00:00.000") ? day : `${day} ${clock.slice(0, 5)} UTC`;
};

/** A number with four significant digits, or three below 1. Integers, and numbers from 1,000 on, have no decimals. */
export const number = (value: number | null | undefined): string => {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  // Adding 0 turns -0 into 0.
  if (Number.isInteger(value)) return (value + 0).toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return size < 0.0001 ? value.toExponential(2) : value.toPrecision(size < 1 ? 3 : 4);
};

/**
 * A share from 0 to 1 as a percentage with one decimal. A share below 1 is never shown as 100%, and a share above 0 never as 0%.
 * Reports use the same rule (`airflow_mlops/core/numbers.py`).
 */
export const percent = (share: number | null | undefined): string => {
  if (share === null || share === undefined) return "–";
  const tenths = Math.round(1000 * share);
  if (share > 0 && tenths === 0) return "< 0.1%";
  return `${((share < 1 ? Math.min(tenths, 999) : tenths) / 10).toFixed(1)}%`;
};

/** A p value. A very small value is shown as an upper bound, because it is not zero. */
export const pValue = (value: number): string => (value < 0.001 ? "p < 0.001" : `p = ${value.toFixed(3)}`);
