import { Box, HStack, Text } from "@chakra-ui/react";
import { scaleLinear, scaleUtc } from "d3-scale";
import { area, line } from "d3-shape";
import { useEffect, useRef, type KeyboardEvent } from "react";

import type { Decision, Level, Point } from "../api/types";
import { change, kindOf } from "../parts/decisions";
import { moment, number } from "../parts/format";
import { useWidth } from "../parts/useWidth";
import { COLOR, shapePath } from "../parts/VerdictMark";
import { place, runs, spread, trace, type Place } from "./events";

const HEIGHT = 320;
const MARGIN = { top: 34, right: 16, bottom: 58, left: 48 };
const REALISED = "var(--chakra-colors-brand-fg)";
const ESTIMATED = "var(--chakra-colors-orange-fg)";
const MUTED = "var(--chakra-colors-fg-muted)";
const BORDER = "var(--chakra-colors-border)";

const middle = ({ window }: Point) => (Date.parse(window.start) + Date.parse(window.end)) / 2;

type Props = { windows: Point[]; decisions: Decision[]; selected: Point | null; onSelect: (point: Point) => void };

const Legend = ({ kinds }: { kinds: Decision["decision"][] }) => (
  <HStack color="fg.muted" flexWrap="wrap" fontSize="xs" gap={4} rowGap={1}>
    <HStack gap={1}>
      <svg aria-hidden="true" height="8" width="22">
        <path d="M0 4H22" stroke={REALISED} strokeWidth="2" />
      </svg>
      realised
    </HStack>
    <HStack gap={1}>
      <svg aria-hidden="true" height="8" width="22">
        <path d="M0 4H22" stroke={ESTIMATED} strokeDasharray="5 3" strokeWidth="2" />
      </svg>
      estimated
    </HStack>
    <HStack gap={1}>
      <svg aria-hidden="true" height="8" width="22">
        <path d="M0 4H22" stroke={MUTED} strokeDasharray="2 3" />
      </svg>
      at training
    </HStack>
    {kinds.map((kind) => (
      <HStack gap={1} key={kind}>
        <svg aria-hidden="true" height="14" viewBox="-8 -8 16 16" width="14">
          <Mark kind={kind} />
        </svg>
        {kindOf(kind).name.toLowerCase()}
      </HStack>
    ))}
  </HStack>
);

const Mark = ({ kind }: { kind: Decision["decision"] }) => {
  const { color, open, path } = kindOf(kind);
  return <path d={path} fill={open ? "none" : color} stroke={color} strokeWidth={open ? 2 : 0} />;
};

/** The metric by window with its interval, the versions that scored, and the decisions on the same axis. */
export const Timeline = ({ decisions, onSelect, selected, windows }: Props) => {
  const [ref, width] = useWidth();
  // A key can be pressed again before the previous selection is rendered.
  const reached = useRef(selected);
  useEffect(() => {
    reached.current = selected;
  }, [selected]);
  const metric = windows.findLast((point) => point.metric !== null)?.metric ?? null;
  // A line must not mix two metrics, so windows with another metric have no value.
  const level = (point: Point, of: "realised" | "estimated"): Level | null => (point.metric === metric ? point[of] : null);
  const events = place(decisions, windows);
  const bounds = windows.flatMap((point) =>
    [level(point, "realised"), level(point, "estimated")].flatMap((found) =>
      found ? [found.low, found.high, found.value, found.reference].filter((value) => value !== null) : [],
    ),
  );
  const first = windows[0];
  const last = windows.at(-1);
  if (!first || !last) return <Text>No window has been monitored yet.</Text>;

  const x = scaleUtc(
    [Date.parse(first.window.start), Math.max(Date.parse(last.window.end), ...events.map(({ at }) => at))],
    [MARGIN.left, Math.max(MARGIN.left + 10, width - MARGIN.right)],
  );
  const y = scaleLinear(bounds.length ? [Math.min(...bounds), Math.max(...bounds)] : [0, 1], [HEIGHT - MARGIN.bottom, MARGIN.top]).nice();
  const band = (of: "realised" | "estimated") =>
    area<Place<Level> | null>()
      .defined((place) => place !== null)
      .x((place) => x(place?.at ?? 0))
      .y0((place) => y(place?.value.low ?? 0))
      .y1((place) => y(place?.value.high ?? 0))(trace(windows, (point) => level(point, of))) ?? "";
  const path = (value: (point: Point) => number | null | undefined) =>
    line<Place<number> | null>()
      .defined((place) => place !== null)
      .x((place) => x(place?.at ?? 0))
      .y((place) => y(place?.value ?? 0))(trace(windows, (point) => value(point) ?? null)) ?? "";

  // The label at the right edge is right-aligned. A label that would overlap the previous label is left out.
  const wide = (tick: Date) => 8 * x.tickFormat()(tick).length;
  const ticks = x.ticks(Math.max(2, Math.floor(width / 110))).filter((tick, index, all) => {
    const before = all[index - 1];
    return x(tick) <= width - 40 || !before || Math.min(width, x(tick)) - wide(tick) > x(before) + wide(before) / 2;
  });

  const step = (event: KeyboardEvent) => {
    const moves: Record<string, number> = { ArrowLeft: -1, ArrowRight: 1, Home: -windows.length, End: windows.length };
    const move = moves[event.key];
    if (move === undefined) return;
    event.preventDefault();
    const index = reached.current ? windows.indexOf(reached.current) : windows.length;
    const next = windows[Math.min(windows.length - 1, Math.max(0, index + move))];
    if (!next) return;
    reached.current = next;
    onSelect(next);
  };
  const kinds = [...new Set(decisions.map(({ decision }) => decision))];
  const bottom = HEIGHT - MARGIN.bottom;
  return (
    <Box ref={ref}>
      <Legend kinds={kinds} />
      {width === 0 ? null : (
        <Box
          aria-label={`${metric ?? "metric"} by window`}
          aria-valuemax={windows.length}
          aria-valuemin={1}
          aria-valuenow={(selected ? windows.indexOf(selected) : windows.length - 1) + 1}
          aria-valuetext={(selected ?? last).window.label}
          onKeyDown={step}
          role="slider"
          tabIndex={0}
        >
          <svg aria-hidden="true" height={HEIGHT} width={width}>
            {(bounds.length ? y.ticks(5) : []).map((tick) => (
              <g key={tick}>
                <path d={`M${MARGIN.left} ${y(tick)}H${width - MARGIN.right}`} stroke={BORDER} />
                <text dy="0.32em" fill={MUTED} fontSize="11" textAnchor="end" x={MARGIN.left - 6} y={y(tick)}>
                  {y.tickFormat(5)(tick)}
                </text>
              </g>
            ))}
            {ticks.map((tick) => (
              <text fill={MUTED} fontSize="11" key={tick.getTime()} textAnchor={x(tick) > width - 40 ? "end" : "middle"} x={Math.min(width, x(tick))} y={HEIGHT - 6}>
                {x.tickFormat()(tick)}
              </text>
            ))}
            <text fill={MUTED} fontSize="11" x={4} y={12}>
              {metric}
            </text>
            {selected ? (
              <rect
                fill={REALISED}
                height={bottom - MARGIN.top}
                opacity="0.12"
                width={Math.max(2, x(Date.parse(selected.window.end)) - x(Date.parse(selected.window.start)))}
                x={x(Date.parse(selected.window.start))}
                y={MARGIN.top}
              />
            ) : null}
            <path d={band("estimated")} fill="var(--chakra-colors-orange-solid)" opacity="0.2" />
            <path d={band("realised")} fill={REALISED} opacity="0.18" />
            <path d={path((point) => level(point, "realised")?.reference ?? level(point, "estimated")?.reference)} fill="none" stroke={MUTED} strokeDasharray="2 3" />
            <path d={path((point) => level(point, "estimated")?.value)} fill="none" stroke={ESTIMATED} strokeDasharray="5 3" strokeWidth="2" />
            <path d={path((point) => level(point, "realised")?.value)} fill="none" stroke={REALISED} strokeWidth="2" />
            {spread(events, x, width - 8).map(({ decision, first, offset, x: left }) => (
              <g key={decision.seq} transform={`translate(${left} 20)`}>
                {first ? <path d={`M0 8V${bottom - 20}`} stroke={MUTED} strokeDasharray="1 3" /> : null}
                <g transform={`translate(${offset} 0)`}>
                  <Mark kind={decision.decision} />
                </g>
                <title>{`${kindOf(decision.decision).name}, ${moment(decision.time)}: ${change(decision)}`}</title>
              </g>
            ))}
            {windows.map((point) => {
              const shown = level(point, "realised") ?? level(point, "estimated");
              const left = x(Date.parse(point.window.start));
              return (
                <g cursor="pointer" data-window={point.window.label} key={point.window.start + point.window.end} onClick={() => onSelect(point)}>
                  <rect fill="transparent" height={bottom - MARGIN.top} width={Math.max(2, x(Date.parse(point.window.end)) - left)} x={left} y={MARGIN.top} />
                  <path
                    d={shapePath(point.verdict, windows.length > 120 ? 5 : 9)}
                    fill={shown ? COLOR[point.verdict] : "var(--chakra-colors-bg)"}
                    stroke={shown ? undefined : COLOR[point.verdict]}
                    strokeWidth="2"
                    transform={`translate(${x(middle(point))} ${shown ? y(shown.value) : bottom})`}
                  />
                  <title>{`${point.window.label}: ${point.verdict}, ${shown ? number(shown.value) : "no value"}`}</title>
                </g>
              );
            })}
            {runs(windows).map(({ end, start, version }, index) => (
              <g key={start}>
                <rect fill={REALISED} height="16" opacity={index % 2 ? 0.22 : 0.1} width={Math.max(1, x(end) - x(start) - 1)} x={x(start)} y={bottom + 10} />
                {x(end) - x(start) > 22 ? (
                  <text fill="var(--chakra-colors-fg)" fontSize="11" textAnchor="middle" x={(x(start) + x(end)) / 2} y={bottom + 22}>
                    v{version}
                  </text>
                ) : null}
              </g>
            ))}
          </svg>
        </Box>
      )}
    </Box>
  );
};
