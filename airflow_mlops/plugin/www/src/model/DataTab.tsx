import { Box, Heading, HStack, Text } from "@chakra-ui/react";

import { apiPath } from "../api/client";
import type { DataWindow, ModelData, Window } from "../api/types";
import { useData } from "../api/useData";
import { number } from "../parts/format";
import { Loading } from "../parts/Loading";
import { Problems } from "../parts/Problems";
import { layers } from "./lineage";

type Day = { window: Window; found: DataWindow | null };

const describe = ({ found, window }: Day): string => {
  if (found === null) return `${window.label}: missing`;
  const parts = [`${number(found.rows)} rows`];
  if (found.quarantined) parts.push(`${number(found.quarantined)} quarantined`);
  if (found.replaced) parts.push(`replaced ${found.replaced === 1 ? "once" : `${found.replaced} times`}`);
  return `${window.label}: ${parts.join(", ")}`;
};

const LOOKS = {
  there: { background: "var(--chakra-colors-green-muted)", sign: "" },
  quarantined: { background: "var(--chakra-colors-orange-muted)", sign: "▲" },
  replaced: { background: "var(--chakra-colors-blue-muted)", sign: "↻" },
  missing: { background: "transparent", sign: "✕" },
};

const look = ({ found }: Day): keyof typeof LOOKS => {
  if (found === null) return "missing";
  return found.quarantined ? "quarantined" : found.replaced ? "replaced" : "there";
};

const Square = ({ kind, width = "22px" }: { kind: keyof typeof LOOKS; width?: string }) => (
  <Box
    alignItems="center"
    borderRadius="3px"
    borderStyle={kind === "missing" ? "dashed" : "solid"}
    borderWidth="1px"
    display="flex"
    fontSize="10px"
    height="22px"
    justifyContent="center"
    style={{ background: LOOKS[kind].background }}
    width={width}
  >
    <span aria-hidden="true">{LOOKS[kind].sign}</span>
  </Box>
);

const HIDDEN = { position: "absolute", width: 1, height: 1, overflow: "hidden", clipPath: "inset(50%)" } as const;
const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const length = ({ end, start }: Window): number => Date.parse(end) - Date.parse(start);
/** A window begins at midnight of its own time zone, so the day in UTC may be the one before. */
const begin = (window: Window): Date => new Date(Date.parse(window.start) + Math.min(14 * HOUR, length(window) / 2));
const months = (window: Window): number => Math.min(12 - begin(window).getUTCMonth(), Math.max(1, Math.round(length(window) / (30.4 * DAY))));

/** The windows of one dataset. A row is a year, or a month if the windows are days or shorter. Months stand in columns. */
export const Calendar = ({ days }: { days: Day[] }) => {
  const lengths = days.filter(({ found }) => found !== null).map(({ window }) => length(window));
  const starts = new Set(days.map(({ window }) => begin(window).toISOString().slice(0, 7)));
  const monthly = lengths.every((one) => one > 27 * DAY && one < 32 * DAY) && starts.size === days.length;
  const short = Math.max(...lengths) < 2 * DAY;
  const rows = new Map<string, Day[]>();
  for (const day of days) {
    // The label has the time zone of the window.
    const row = short ? day.window.label.slice(0, 7) : begin(day.window).toISOString().slice(0, 4);
    rows.set(row, [...(rows.get(row) ?? []), day]);
  }
  return (
    <>
      {[...rows].map(([row, own]) => (
        <HStack alignItems="flex-start" gap={2} key={row} mb={1}>
          <Text color="fg.muted" minW={short ? "60px" : "40px"}>
            {row}
          </Text>
          <Box as="ul" display={monthly ? "grid" : "flex"} flexWrap="wrap" gap="2px" gridTemplateColumns="repeat(12, minmax(0, 22px))" listStyleType="none" minW={0}>
            {own.map((day) => (
              <li
                key={day.window.start + day.window.end}
                style={monthly ? { gridColumn: `${begin(day.window).getUTCMonth() + 1} / span ${months(day.window)}`, gridRow: 1 } : undefined}
                title={describe(day)}
              >
                <Square kind={look(day)} width={monthly ? "100%" : "22px"} />
                <span style={HIDDEN}>{describe(day)}</span>
              </li>
            ))}
          </Box>
        </HStack>
      ))}
    </>
  );
};

/** Shorten a text to the width of a box. Times at midnight are left out. The tooltip of the box shows the whole text. */
const short = (text: string): string => {
  const days = text.replaceAll(/T00:00:00(Z|\+00:00)?/g, "");
  return days.length > 22 ? `${days.slice(0, 21)}…` : days;
};

const WIDTH = 214;
const HEIGHT = 52;

const Lineage = ({ lineage }: { lineage: ModelData["lineage"] }) => {
  const nodes = layers(lineage);
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const width = (1 + Math.max(0, ...nodes.map(({ layer }) => layer))) * WIDTH;
  const height = (1 + Math.max(0, ...nodes.map(({ row }) => row))) * HEIGHT;
  const names = nodes.map(({ kind, label, name }) => `${kind} ${name} ${label}`);
  return (
    <Box overflowX="auto" tabIndex={0} aria-label="Lineage" role="group">
      <svg aria-label={`From raw data to predictions: ${names.join("; ")}`} height={height} role="img" width={width}>
        {lineage.edges.map(([from, to]) => {
          const one = byId.get(from);
          const other = byId.get(to);
          if (!one || !other) return null;
          const start = [one.layer * WIDTH + WIDTH - 30, one.row * HEIGHT + 20] as const;
          const end = [other.layer * WIDTH, other.row * HEIGHT + 20] as const;
          return (
            <path
              d={`M${start[0]} ${start[1]}C${start[0] + 15} ${start[1]} ${end[0] - 15} ${end[1]} ${end[0]} ${end[1]}`}
              fill="none"
              key={`${from}>${to}`}
              stroke="var(--chakra-colors-fg-muted)"
            />
          );
        })}
        {nodes.map((node) => (
          <g key={node.id} transform={`translate(${node.layer * WIDTH} ${node.row * HEIGHT})`}>
            <rect
              fill={node.kind === "model" ? "var(--chakra-colors-brand-muted)" : "var(--chakra-colors-bg-muted)"}
              height="40"
              rx="4"
              stroke="var(--chakra-colors-border-emphasized)"
              width={WIDTH - 30}
            />
            <text fill="var(--chakra-colors-fg)" fontSize="11" x="8" y="16">
              {short(node.name || node.kind)}
            </text>
            <text fill="var(--chakra-colors-fg-muted)" fontSize="11" x="8" y="32">
              {short(node.label)}
            </text>
            <title>{`${node.kind} ${node.name} ${node.label}, ${node.id}`}</title>
          </g>
        ))}
      </svg>
    </Box>
  );
};

/** The windows of each dataset that the model reads, and the lineage from raw data to predictions. */
export const DataTab = ({ name }: { name: string }) => {
  const { data, failure, reload } = useData<ModelData>(apiPath("models", name, "data"));
  if (data === null) return failure ? <Problems failure={failure} onRetry={reload} /> : <Loading />;
  return (
    <>
      <HStack color="fg.muted" flexWrap="wrap" fontSize="xs" gap={4} mb={3}>
        {(["there", "quarantined", "replaced", "missing"] as const).map((kind) => (
          <HStack gap={1} key={kind}>
            <Square kind={kind} />
            {{ there: "present", quarantined: "with quarantined rows", replaced: "replaced", missing: "missing" }[kind]}
          </HStack>
        ))}
      </HStack>
      {data.datasets.map((dataset) => (
        <Box key={dataset.name} mb={4}>
          <Heading as="h3" mb={1} size="sm">
            {dataset.name}
          </Heading>
          <Calendar
            days={[
              ...dataset.windows.map((found): Day => ({ window: found.window, found })),
              ...dataset.missing.map((window): Day => ({ window, found: null })),
            ].sort((one, other) => one.window.start.localeCompare(other.window.start))}
          />
        </Box>
      ))}
      {data.datasets.length === 0 ? <Text>The datasets of this model have no windows.</Text> : null}
      {data.lineage.nodes.length > 0 ? (
        <>
          <Heading as="h3" mb={2} size="sm">
            From raw data to predictions
          </Heading>
          <Lineage lineage={data.lineage} />
        </>
      ) : null}
    </>
  );
};
