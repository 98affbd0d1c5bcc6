import { Box, Button, HStack, Link, Table, Text } from "@chakra-ui/react";
import { useState } from "react";
import { useSearchParams } from "react-router-dom";

import { reportAddress } from "../api/client";
import type { Level, ModelFacts, Point } from "../api/types";
import { Choice } from "../parts/Choice";
import { moment, number, percent } from "../parts/format";
import { MetricName } from "../parts/MetricName";
import { VerdictMark } from "../parts/VerdictMark";
import { Timeline } from "./Timeline";

const SPANS = { "36": "Last 36 windows", "120": "Last 120 windows", all: "All windows" };
const ROWS = 12;

const Interval = ({ level }: { level: Level | null }) =>
  level === null ? (
    <>–</>
  ) : (
    <>
      {number(level.value)}{" "}
      <Text as="span" color="fg.muted">
        ({number(level.low)} to {number(level.high)})
      </Text>
    </>
  );

const Report = ({ point }: { point: Point }) =>
  point.report ? (
    <Link color="fg.info" href={reportAddress(point.report)} rel="noopener" target="_blank">
      Report of {point.window.label}
    </Link>
  ) : null;

/** The timeline, the facts about the selected window, and the same windows as a table. */
export const TimelineTab = ({ model }: { model: ModelFacts }) => {
  const [params, setParams] = useSearchParams();
  const [rows, setRows] = useState(ROWS);
  const span = params.get("span") ?? "36";
  const windows = span === "all" ? model.windows : model.windows.slice(-(Number(span) || 36));
  const start = windows[0]?.window.start;
  // Decisions before the first shown window would all be drawn at the left edge.
  const decisions =
    windows.length === model.windows.length || start === undefined
      ? model.decisions
      : model.decisions.filter(({ time }) => Date.parse(time) >= Math.min(Date.parse(windows[0]?.checked ?? start), Date.parse(start)));
  const selected = windows.find(({ window }) => window.label === params.get("window")) ?? null;
  const set = (name: string, value: string) =>
    setParams((before) => {
      const after = new URLSearchParams(before);
      after.set(name, value);
      return after;
    }, { replace: true });
  const newest = [...windows].reverse();
  return (
    <>
      <HStack justifyContent="flex-end" mb={2}>
        {model.windows.length > 36 ? (
          <Choice label="Windows" onChange={(value) => set("span", value)} options={SPANS} value={span} />
        ) : null}
      </HStack>
      <Timeline decisions={decisions} onSelect={({ window }) => set("window", window.label)} selected={selected} windows={windows} />
      <Box aria-live="polite" mb={4} minH="28px" mt={2}>
        {selected ? (
          <HStack flexWrap="wrap" gap={3}>
            <Text fontWeight="bold">{selected.window.label}</Text>
            <VerdictMark verdict={selected.verdict} />
            <Text>{selected.headline}</Text>
            <Report point={selected} />
          </HStack>
        ) : windows.length ? (
          <Text color="fg.muted">Select a window with a click or the arrow keys to see its verdict and its report.</Text>
        ) : null}
      </Box>
      {windows.length === 0 ? null : (
        <Table.ScrollArea aria-label="Monitored windows, scrollable" role="group" tabIndex={0}>
          <Table.Root aria-label="Monitored windows" size="sm">
            <Table.Header>
              <Table.Row>
                {["Window", "Verdict", "Metric", "Realised", "Estimated", "Version", "Predictions", "Labelled", "Checked", "Report"].map((title) => (
                  <Table.ColumnHeader key={title}>{title}</Table.ColumnHeader>
                ))}
              </Table.Row>
            </Table.Header>
            <Table.Body>
              {newest.slice(0, rows).map((point) => (
                <Table.Row key={point.window.start + point.window.end}>
                  <Table.Cell whiteSpace="nowrap">{point.window.label}</Table.Cell>
                  <Table.Cell>
                    <VerdictMark verdict={point.verdict} />
                  </Table.Cell>
                  <Table.Cell>{point.metric === null ? "–" : <MetricName name={point.metric} />}</Table.Cell>
                  <Table.Cell whiteSpace="nowrap">
                    <Interval level={point.realised} />
                  </Table.Cell>
                  <Table.Cell whiteSpace="nowrap">
                    <Interval level={point.estimated} />
                  </Table.Cell>
                  <Table.Cell>{point.version ?? "–"}</Table.Cell>
                  <Table.Cell>{number(point.rows)}</Table.Cell>
                  <Table.Cell>{percent(point.coverage)}</Table.Cell>
                  <Table.Cell whiteSpace="nowrap">{moment(point.checked)}</Table.Cell>
                  <Table.Cell whiteSpace="nowrap">
                    <Report point={point} />
                  </Table.Cell>
                </Table.Row>
              ))}
            </Table.Body>
          </Table.Root>
        </Table.ScrollArea>
      )}
      {newest.length > rows ? (
        <Button mt={2} onClick={() => setRows(rows + 50)} size="xs" variant="outline">
          Show earlier windows
        </Button>
      ) : null}
    </>
  );
};
