import { Box, HStack, Text } from "@chakra-ui/react";
import { scaleLinear } from "d3-scale";
import { line } from "d3-shape";

import type { Curve } from "../api/types";
import { number } from "./format";
import { useWidth } from "./useWidth";

const HEIGHT = 220;
const MARGIN = { top: 10, right: 12, bottom: 36, left: 52 };
const MUTED = "var(--chakra-colors-fg-muted)";
const STYLES = [
  { color: "var(--chakra-colors-brand-fg)", dash: undefined },
  { color: "var(--chakra-colors-orange-fg)", dash: "5 3" },
];

const style = (index: number) => STYLES[index % STYLES.length] ?? STYLES[0];
const named = (metric: string) => metric.replaceAll("_", " ");

/** Losses by epoch, or by round for boosted trees. Epochs and rounds are numbered from 1. */
export const Curves = ({ curves }: { curves: Curve[] }) => {
  const [ref, width] = useWidth();
  // A training that diverges logs NaN or infinity, which is null in JSON.
  const drawn = curves.map(({ metric, points }) => ({ metric, points: points.filter((point): point is [number, number] => point[1] !== null) }));
  const points = drawn.flatMap((curve) => curve.points);
  if (points.length === 0) return null;
  const epochs = points.map(([epoch]) => epoch + 1);
  const values = points.map(([, value]) => value);
  const right = Math.max(MARGIN.left + 10, width - MARGIN.right);
  const x = scaleLinear([1, Math.max(2, ...epochs)], [MARGIN.left, right]);
  const y = scaleLinear([Math.min(...values), Math.max(...values)], [HEIGHT - MARGIN.bottom, MARGIN.top]).nice();
  const path = line<[number, number]>()
    .x(([epoch]) => x(epoch + 1))
    .y(([, value]) => y(value));
  const newest = drawn.map(({ metric, points: found }) => `${named(metric)} ${number(found.at(-1)?.[1])}`).join(", ");
  return (
    <Box maxW="720px" my={3} ref={ref}>
      <HStack color="fg.muted" flexWrap="wrap" fontSize="xs" gap={4}>
        {drawn.map(({ metric, points: found }, index) => (
          <HStack gap={1} key={metric}>
            <svg aria-hidden="true" height="8" width="22">
              <path d="M0 4H22" stroke={style(index)?.color} strokeDasharray={style(index)?.dash} strokeWidth="2" />
            </svg>
            {named(metric)}: {number(found.at(-1)?.[1])}
          </HStack>
        ))}
      </HStack>
      {width === 0 ? null : (
        <svg aria-label={`Loss by epoch, ${Math.max(...epochs)} epochs: ${newest}`} height={HEIGHT} role="img" width={width}>
          {y.ticks(5).map((tick) => (
            <g key={tick}>
              <path d={`M${MARGIN.left} ${y(tick)}H${right}`} stroke="var(--chakra-colors-border)" />
              <text dy="0.32em" fill={MUTED} fontSize="11" textAnchor="end" x={MARGIN.left - 6} y={y(tick)}>
                {y.tickFormat(5)(tick)}
              </text>
            </g>
          ))}
          {x
            .ticks(Math.max(2, Math.floor(width / 90)))
            .filter(Number.isInteger)
            .map((tick) => (
              <text fill={MUTED} fontSize="11" key={tick} textAnchor="middle" x={x(tick)} y={HEIGHT - MARGIN.bottom + 16}>
                {tick}
              </text>
            ))}
          <text fill={MUTED} fontSize="11" textAnchor="end" x={right} y={HEIGHT - 4}>
            epoch or boosting round
          </text>
          {drawn.map(({ metric, points: found }, index) => (
            <g key={metric}>
              <path d={path(found) ?? ""} fill="none" stroke={style(index)?.color} strokeDasharray={style(index)?.dash} strokeWidth="2" />
              {found.slice(-1).map(([epoch, value]) => (
                <circle cx={x(epoch + 1)} cy={y(value)} fill={style(index)?.color} key={epoch} r="3" />
              ))}
            </g>
          ))}
        </svg>
      )}
      {curves.some((curve, index) => curve.points.length > (drawn[index]?.points.length ?? 0)) ? (
        <Text color="red.fg">The loss is infinite or NaN in some epochs.</Text>
      ) : null}
    </Box>
  );
};
