import { scaleLinear } from "d3-scale";
import { line } from "d3-shape";

import type { TrendPoint } from "../api/types";
import { number } from "./format";
import { COLOR } from "./VerdictMark";

const WIDTH = 120;
const HEIGHT = 28;
const MARGIN = 4;

/** The metric over the last windows: realised as a line, estimated as a dashed line, the last value as a dot. */
export const Sparkline = ({ metric, trend }: { metric: string | null; trend: TrendPoint[] }) => {
  const values = trend.flatMap(({ value, estimated }) => [value, estimated]).filter((value) => value !== null);
  if (values.length === 0) return <span aria-label="No values">–</span>;
  const x = scaleLinear([0, Math.max(1, trend.length - 1)], [MARGIN, WIDTH - MARGIN]);
  const y = scaleLinear([Math.min(...values), Math.max(...values)], [HEIGHT - MARGIN, MARGIN]);
  const draw = (of: (point: TrendPoint) => number | null) =>
    line<TrendPoint>()
      .defined((point) => of(point) !== null)
      .x((_, index) => x(index))
      .y((point) => y(of(point) ?? 0))(trend) ?? "";
  const last = trend.length - 1;
  const newest = trend[last];
  const shown = newest?.value ?? newest?.estimated ?? null;
  const range = `${number(Math.min(...values))} to ${number(Math.max(...values))}`;
  return (
    <svg
      aria-label={`${metric ?? "metric"} of the last ${trend.length} windows: ${range}, last ${number(shown)}`}
      height={HEIGHT}
      role="img"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      width={WIDTH}
    >
      <path d={draw((point) => point.estimated)} fill="none" stroke={COLOR.none} strokeDasharray="3 2" />
      <path d={draw((point) => point.value)} fill="none" stroke="var(--chakra-colors-brand-fg)" strokeWidth="1.5" />
      {newest && shown !== null ? <circle cx={x(last)} cy={y(shown)} fill={COLOR[newest.verdict]} r="3" /> : null}
    </svg>
  );
};
