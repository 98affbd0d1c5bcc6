import { Box, Heading, Link, List, Table, Text } from "@chakra-ui/react";
import type { ReactNode } from "react";
import { Link as RouterLink } from "react-router-dom";

import { apiPath } from "../api/client";
import type { Candidate, Progress, Samples, TaskResult } from "../api/types";
import { useData } from "../api/useData";
import { number, percent } from "../parts/format";
import { Gates } from "../parts/Gates";
import { Loading } from "../parts/Loading";
import { MetricName } from "../parts/MetricName";
import { Problems } from "../parts/Problems";
import { amounts } from "../parts/usage";
import { VerdictMark } from "../parts/VerdictMark";
import { modelPage } from "../routes";
import { QuarantinedRows } from "./QuarantinedRows";
import { TrainingProgress } from "./TrainingProgress";

type Fields = Record<string, unknown>;

const fields = (value: unknown): Fields => (typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {});
const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : value === null || value === undefined ? [] : [value]);
const text = (value: unknown): string => {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value === "number") return number(value);
  if (typeof value === "string") return value;
  if (Array.isArray(value)) return value.map(text).join(", ");
  return JSON.stringify(value);
};

/** A link to a page. Addresses come from data, so nothing is shown if the address is not http or https. */
const Page = ({ children, href }: { children: ReactNode; href: unknown }) => {
  if (typeof href !== "string" || !URL.canParse(href, document.baseURI)) return null;
  const target = new URL(href, document.baseURI);
  return ["http:", "https:"].includes(target.protocol) ? (
    <Link color="fg.info" href={target.href} rel="noopener noreferrer" target="_blank">
      {children}
    </Link>
  ) : null;
};

const numbers = (value: unknown): [string, unknown][] => Object.entries(fields(value));

/** A table of names and values. The metrics come last, and the meanings of their names are shown as tooltips. */
const Facts = ({ facts, metrics, title }: { title: string; facts: [string, unknown][]; metrics?: unknown }) => (
  <Table.Root aria-label={title} maxW="720px" size="sm">
    <Table.Body>
      {[...facts.map((fact) => [...fact, false] as const), ...numbers(metrics).map((fact) => [...fact, true] as const)].map(
        ([name, value, metric]) => (
          <Table.Row key={name}>
            <Table.Cell fontWeight="medium">{metric ? <MetricName name={name} /> : name}</Table.Cell>
            <Table.Cell overflowWrap="anywhere">{text(value)}</Table.Cell>
          </Table.Row>
        ),
      )}
    </Table.Body>
  </Table.Root>
);

const Evaluation = ({ result }: { result: Fields }) => {
  const candidates = list(fields(result.verdict).candidates) as Candidate[];
  return (
    <>
      {candidates.map((candidate, index) => (
        <Box key={index} mb={4}>
          <Heading as="h3" mb={1} size="sm">
            Version {text(fields(fields(candidate).candidate).version ?? candidate.version)}: {candidate.passed ? "passed every gate" : "failed"}
          </Heading>
          <Text color="fg.muted">{candidate.reason}</Text>
          <Gates gates={candidate.gates} />
        </Box>
      ))}
    </>
  );
};

const Monitoring = ({ result }: { result: Fields }) => (
  <>
    <VerdictMark verdict={["healthy", "watch", "retrain"].includes(String(result.decision)) ? (result.decision as "healthy") : null} />
    <List.Root my={1} pl={5}>
      {list(result.details).map((detail, index) => (
        <List.Item key={index}>{text(detail)}</List.Item>
      ))}
    </List.Root>
    <Page href={result.report_url}>Open the report</Page>
    <Facts
      facts={[
        ["window", result.window],
        ["most drifted", result.most_drifted],
        ["worst segment", result.worst_segment],
        ["changed since", result.changed_since],
      ]}
      metrics={result.metrics}
      title="Findings"
    />
  </>
);

// Results of older versions have no severity. Then a failure was critical.
type Outcome = { expectation: string; success: boolean; unexpected: number | null; severity?: string };

const FAILURE_COLORS: Record<string, string> = { warning: "orange.fg", info: "fg.muted" };

const Validation = ({ result }: { result: Fields }) => (
  <>
    <Page href={result.docs_url}>Open the Data Docs</Page>
    <Table.Root aria-label="Expectations" size="sm">
      <Table.Header>
        <Table.Row>
          <Table.ColumnHeader>Result</Table.ColumnHeader>
          <Table.ColumnHeader>Severity</Table.ColumnHeader>
          <Table.ColumnHeader>Expectation</Table.ColumnHeader>
          <Table.ColumnHeader whiteSpace="nowrap">Unexpected rows</Table.ColumnHeader>
        </Table.Row>
      </Table.Header>
      <Table.Body>
        {(list(result.outcomes) as Outcome[]).map((outcome, index) => (
          <Table.Row key={index}>
            <Table.Cell color={outcome.success ? "green.fg" : FAILURE_COLORS[outcome.severity ?? ""] ?? "red.fg"} whiteSpace="nowrap">
              {outcome.success ? "✓ met" : "✕ not met"}
            </Table.Cell>
            <Table.Cell>{outcome.severity ?? "critical"}</Table.Cell>
            <Table.Cell overflowWrap="anywhere">{outcome.expectation}</Table.Cell>
            <Table.Cell>{number(outcome.unexpected)}</Table.Cell>
          </Table.Row>
        ))}
      </Table.Body>
    </Table.Root>
  </>
);

/** The proof of a split: the rows and times of each part, and how many rows are in both. */
const proof = (split: Fields): [string, unknown][] => [
  ["split", [split.method, split.test_size].filter((part) => part !== null && part !== undefined).map(text).join(", ")],
  ...Object.entries(fields(split.time)).map(([part, times]): [string, unknown] => [`times of ${part}`, list(times).map(text).join(" to ")]),
  ...Object.entries(fields(split.gap))
    .filter(([name]) => name !== "seconds")
    .map(([name, value]): [string, unknown] => [`gap before test, ${name}`, value]),
  ["rows in both parts", split.overlap],
  ...Object.entries(fields(split.row_ids)).map(([part, hash]): [string, unknown] => [`SHA-256 of the row ids of ${part}`, hash]),
];

const Split = ({ result, split }: { result: Fields; split?: Fields | undefined }) => (
  <Facts
    facts={[
      ["dataset", fields(result.dataset).id],
      ...numbers(result.rows).map(([name, rows]): [string, unknown] => [`rows in ${name}`, rows]),
      ["dropped rows", result.dropped],
      ["label", result.label],
      ["positive rate", typeof result.positive_rate === "number" ? percent(result.positive_rate) : null],
      ["features", result.features],
      ["windows", result.window_rule],
      ...(split && Object.keys(split).length ? proof(split) : []),
    ]}
    title="Split"
  />
);

const Training = ({ result }: { result: Fields }) => (
  <>
    <Page href={result.run_url}>Open the MLflow run</Page>
    <Facts
      facts={[
        ["version", fields(result.candidate).version],
        ["trainer", typeof result.trainer === "string" ? result.trainer : null],
        ["training data", fields(result.dataset).id],
        ...(typeof result.metric === "string" ? ([[`best ${result.metric}`, result.value]] as [string, unknown][]) : []),
        ...numbers(result.trials).map(([state, count]): [string, unknown] => [`trials: ${state}`, count]),
        ...numbers(result.params),
      ]}
      metrics={result.metrics}
      title="Result"
    />
  </>
);

const simple = (result: Fields): [string, unknown][] =>
  Object.entries(result).filter(([name, value]) => name !== "summary" && (typeof value !== "object" || value === null || Array.isArray(value)));

const VIEWS: Record<string, (props: { result: Fields; split?: Fields | undefined }) => ReactNode> = {
  evaluate: Evaluation,
  monitor: Monitoring,
  validate: Validation,
  train: Training,
  search: Training,
  training_set: Split,
};

/** The result of one task. Before Airflow 3.4, every task has this tab, so a task without a result shows a message. */
export const TaskPage = ({ dagId, mapIndex, runId, taskId }: { dagId: string; runId: string; taskId: string; mapIndex: string }) => {
  const place = ["tasks", dagId, runId, taskId, mapIndex];
  const { data, failure, reload } = useData<TaskResult>(apiPath(...place), 15);
  const unfinished = failure?.status === 404 && data === null;
  const training = unfinished || data?.kind === "train" || data?.kind === "search";
  const { data: progress } = useData<Progress>(training ? apiPath(...place, "progress") : null, unfinished ? 10 : 0);
  const quarantined = data?.kind === "validate" && Boolean(data.result.quarantined);
  const samples = useData<Samples>(quarantined ? apiPath(...place, "samples") : null);
  if (unfinished) {
    return progress?.status ? (
      <TrainingProgress progress={progress} />
    ) : (
      <Text color="fg.muted">This task has no machine-learning result. Tasks of airflow-mlops operators have one after they have succeeded. The log says why a task failed.</Text>
    );
  }
  const View = VIEWS[data?.kind ?? ""];
  return (
    <>
      <Problems failure={failure} onRetry={reload} />
      {data === null && failure === null ? <Loading /> : null}
      {data === null ? null : (
        <>
          {data.model ? (
            <Link asChild color="fg.info">
              <RouterLink to={modelPage(data.model)}>Model {data.model}</RouterLink>
            </Link>
          ) : null}
          <Text fontSize="md" fontWeight="bold" my={2}>
            {data.summary}
          </Text>
          {View ? <View result={data.result} split={data.split} /> : <Facts facts={simple(data.result)} title="Result" />}
          {data.result.usage ? (
            <>
              <Heading as="h3" mb={1} mt={4} size="sm">
                Resources used
              </Heading>
              <Facts facts={amounts(fields(data.result.usage))} title="Resources used" />
            </>
          ) : null}
          {progress ? <TrainingProgress progress={progress} /> : null}
          {quarantined ? <QuarantinedRows loaded={samples} /> : null}
        </>
      )}
    </>
  );
};
