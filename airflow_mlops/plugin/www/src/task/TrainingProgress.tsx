import { Link, Table, Text } from "@chakra-ui/react";

import type { Progress, Trial } from "../api/types";
import { Curves } from "../parts/Curves";
import { number } from "../parts/format";

const SHOWN = 20;

const STATES: Record<string, string> = { complete: "✓ complete", failed: "✕ failed", lost: "✕ lost", pruned: "✂ pruned", running: "… running" };

const pairs = (values: Record<string, number | string>) =>
  Object.entries(values)
    .map(([name, value]) => `${name} ${typeof value === "number" ? number(value) : value}`)
    .join(", ") || "–";

const counts = (trials: Trial[]): Record<string, number> => {
  const found: Record<string, number> = {};
  for (const { state } of trials) found[state] = (found[state] ?? 0) + 1;
  return found;
};

const Trials = ({ trials }: { trials: Trial[] }) => (
  <>
    <Text mt={3}>
      {Object.entries(counts(trials))
        .map(([state, count]) => `${count} ${state}`)
        .join(", ")}
    </Text>
    <Table.Root aria-label="Trials" size="sm">
      <Table.Header>
        <Table.Row>
          <Table.ColumnHeader>Trial</Table.ColumnHeader>
          <Table.ColumnHeader>State</Table.ColumnHeader>
          <Table.ColumnHeader>Metric</Table.ColumnHeader>
          <Table.ColumnHeader>Parameters</Table.ColumnHeader>
        </Table.Row>
      </Table.Header>
      <Table.Body>
        {trials.slice(0, SHOWN).map((trial) => (
          <Table.Row key={trial.number}>
            <Table.Cell>{trial.number}</Table.Cell>
            <Table.Cell whiteSpace="nowrap">{STATES[trial.state] ?? trial.state}</Table.Cell>
            <Table.Cell>{pairs(trial.metrics)}</Table.Cell>
            <Table.Cell overflowWrap="anywhere">{pairs(trial.params)}</Table.Cell>
          </Table.Row>
        ))}
      </Table.Body>
    </Table.Root>
  </>
);

/** The curves and trials that a training or a search has logged to MLflow so far. */
export const TrainingProgress = ({ progress }: { progress: Progress }) => (
  <>
    {progress.status === "RUNNING" ? <Text fontWeight="bold">Training is running.</Text> : null}
    {progress.status === "RUNNING" && progress.run_url ? (
      <Link color="fg.info" href={progress.run_url} rel="noopener noreferrer" target="_blank">
        Open the MLflow run
      </Link>
    ) : null}
    <Curves curves={progress.curves} />
    {progress.trials.length ? <Trials trials={progress.trials} /> : null}
  </>
);
