import { scaleLinear } from "d3-scale";
import { line } from "d3-shape";

import type { Trend } from "../api/types";
import { number } from "./format";
import { COLOR } from "./VerdictMark";

const WIDTH = 120;
const HEIGHT = 28;
const MARGIN = 4;

/** The last value of the metric, and whether it was only estimated. */
export const newest = ({ values, estimated }: Trend) => {
  const value = values.at(-1) ?? null;
  return value === null ? { value: estimated.at(-1) ?? null, estimated: true } : { value, estimated: false };
};

/** The metric over the last windows: realised as a line, estimated as a dashed line, the last value as a dot. */
export const Sparkline = ({ metric, trend }: { metric: string | null; trend: Trend }) => {
  const values = [...trend.values, ...trend.estimated].filter((value) => value !== null);
  if (values.length === 0) return <span aria-label="No values">–</span>;
  const last = trend.values.length - 1;
  const x = scaleLinear([0, Math.max(1, last)], [MARGIN, WIDTH - MARGIN]);
  const y = scaleLinear([Math.min(...values), Math.max(...values)], [HEIGHT - MARGIN, MARGIN]);
  const draw = line<number | null>()
    .defined((value) => value !== null)
    .x((_, index) => x(index))
    .y((value) => y(value ?? 0));
  const shown = newest(trend).value;
  const verdict = trend.verdicts[last];
  const range = `${number(Math.min(...values))} to ${number(Math.max(...values))}`;
  return (
    <svg
      aria-label={`${metric ?? "metric"} of the last ${trend.values.length} windows: ${range}, last ${number(shown)}`}
      height={HEIGHT}
      role="img"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      width={WIDTH}
    >
      <path d={draw(trend.estimated) ?? ""} fill="none" stroke={COLOR.none} strokeDasharray="3 2" />
      <path d={draw(trend.values) ?? ""} fill="none" stroke="var(--chakra-colors-brand-fg)" strokeWidth="1.5" />
      {verdict && shown !== null ? <circle cx={x(last)} cy={y(shown)} fill={COLOR[verdict]} r="3" /> : null}
    </svg>
  );
};
