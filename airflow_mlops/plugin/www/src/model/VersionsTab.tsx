import { Badge, Box, Button, HStack, Link, Table, Text } from "@chakra-ui/react";
import { useState, type ReactNode } from "react";

import { apiPath } from "../api/client";
import type { ModelVersion, Versions } from "../api/types";
import { useData } from "../api/useData";
import { moment, number } from "../parts/format";
import { Loading } from "../parts/Loading";
import { MetricName } from "../parts/MetricName";
import { Problems } from "../parts/Problems";
import { amounts } from "../parts/usage";

const text = (value: unknown): string => (typeof value === "string" ? value : (JSON.stringify(value) ?? "–"));
const names = (versions: ModelVersion[], of: (version: ModelVersion) => string[]) => [...new Set(versions.flatMap(of))];

/** A link to another site. Addresses come from data, so only http and https addresses become links. */
const Outside = ({ children, href }: { children: ReactNode; href: string | null }) => {
  const valid = href !== null && URL.canParse(href) && ["http:", "https:"].includes(new URL(href).protocol);
  return valid ? (
    <Link color="fg.info" href={href} rel="noopener noreferrer" target="_blank">
      {children}
    </Link>
  ) : (
    <>{children}</>
  );
};

const Gate = ({ name, version }: { name: string; version: ModelVersion }) => {
  const gate = version.gates.find((found) => found.gate === name);
  if (!gate) return <>–</>;
  return (
    <Text color={gate.passed ? "green.fg" : "red.fg"} title={gate.explanation}>
      {gate.passed ? "✓ passed" : "✕ failed"}
      {gate.measured === null ? "" : ` (${number(gate.measured)})`}
    </Text>
  );
};

/** Metrics of the MLflow run that are not measured on held-out data. */
const OF_FIT = /^(onnx_|(train|validation)_loss$|fit_seconds$)/;

const metricRows = (versions: ModelVersion[], ofFit: boolean): Row[] =>
  names(versions, ({ metrics }) => Object.keys(metrics))
    .filter((name) => OF_FIT.test(name) === ofFit)
    .map((name) => ({
      name,
      metric: true,
      cell: ({ metrics }) => {
        const found = metrics[name];
        if (!found) return "–";
        const { high, low, value } = found;
        return low === null || high === null ? number(value) : `${number(value)} (${number(low)} to ${number(high)})`;
      },
    }));

const used = ({ usage }: ModelVersion): Map<string, string> => new Map(amounts(usage ?? {}));

const resources = (versions: ModelVersion[]): Row[] => {
  const found = names(versions, (version) => [...used(version).keys()]);
  return found.length === 0
    ? []
    : [
        { name: "steps", cell: ({ steps }) => steps.join(", ") || "–" },
        ...found.map((name): Row => ({ name, cell: (version) => used(version).get(name) ?? "–" })),
      ];
};

type Row = { name: string; metric?: boolean; cell: (version: ModelVersion) => ReactNode };

const rows = (versions: ModelVersion[]): { title: string; rows: Row[] }[] => [
  {
    title: "Metrics on held-out data (95% confidence interval)",
    rows: metricRows(versions, false),
  },
  {
    title: "Gates",
    rows: names(versions, ({ gates }) => gates.map(({ gate }) => gate)).map((name) => ({
      name,
      cell: (version) => <Gate name={name} version={version} />,
    })),
  },
  {
    title: "Training",
    rows: [
      { name: "created", cell: ({ created }) => (created ? moment(created) : "–") },
      {
        name: "training data",
        cell: ({ dataset }) => (dataset ? `${dataset.name} ${dataset.id.slice(0, 12)}${dataset.rows === null ? "" : `, ${number(dataset.rows)} rows`}` : "–"),
      },
      { name: "MLflow run", cell: ({ mlflow_url, run_id }) => (run_id ? <Outside href={mlflow_url}>{run_id.slice(0, 12)}</Outside> : "–") },
      {
        name: "model card",
        cell: ({ card, version }) => (card ? <Outside href={card}>Card of version {version}</Outside> : "–"),
      },
    ],
  },
  { title: "Resources used by all steps (an evaluation counts for each of its candidates)", rows: resources(versions) },
  { title: "Fit and conversion to ONNX", rows: metricRows(versions, true) },
  {
    title: "Parameters",
    rows: names(versions, ({ params }) => Object.keys(params)).map((name) => ({
      name,
      cell: ({ params }) => (name in params ? text(params[name]) : "–"),
    })),
  },
];

/** Versions side by side. The champion comes first, then the newest version. */
export const VersionsTab = ({ name }: { name: string }) => {
  const { data, failure, reload } = useData<Versions>(apiPath("models", name, "versions"));
  const [shown, setShown] = useState(5);
  if (data === null) return failure ? <Problems failure={failure} onRetry={reload} /> : <Loading />;
  const ordered = [...data.versions].sort((one, other) => Number(other.champion) - Number(one.champion) || other.version - one.version);
  const versions = ordered.slice(0, shown);
  return (
    <>
      <Problems failure={failure} texts={data.problems} />
      {versions.length === 0 ? (
        <Text>No versions were found.</Text>
      ) : (
        <Table.ScrollArea aria-label="Versions, scrollable" role="group" tabIndex={0}>
          <Table.Root aria-label="Versions side by side" size="sm">
            <Table.Header>
              <Table.Row>
                <Table.ColumnHeader>Version</Table.ColumnHeader>
                {versions.map(({ challenger, champion, judged, version }) => (
                  <Table.ColumnHeader key={version}>
                    <HStack flexWrap="wrap" maxW="260px" minW="190px" rowGap={0} whiteSpace="normal">
                      {version}
                      {champion ? <Badge colorPalette="green">champion</Badge> : null}
                      {challenger ? <Badge colorPalette="blue">challenger</Badge> : null}
                      {judged === null ? null : (
                        <Text color="fg.muted" fontSize="xs" fontWeight="normal">
                          fitted again from version {judged}, whose metrics are shown
                        </Text>
                      )}
                    </HStack>
                  </Table.ColumnHeader>
                ))}
              </Table.Row>
            </Table.Header>
            {rows(versions)
              .filter((group) => group.rows.length > 0)
              .map((group) => (
                <Table.Body key={group.title}>
                  <Table.Row bg="bg.muted">
                    <Table.Cell colSpan={versions.length + 1} fontWeight="bold">
                      {group.title}
                    </Table.Cell>
                  </Table.Row>
                  {group.rows.map((row) => (
                    <Table.Row key={row.name}>
                      <Table.Cell bg="bg" left={0} maxW="max(120px, 24vw)" minW="120px" overflowWrap="anywhere" position="sticky" whiteSpace="normal" zIndex={1}>
                        {row.metric ? <MetricName name={row.name} /> : row.name}
                      </Table.Cell>
                      {versions.map((version) => (
                        <Table.Cell key={version.version}>
                          <Box maxW="260px" minW="190px" overflowWrap="anywhere" whiteSpace="normal">
                            {row.cell(version)}
                          </Box>
                        </Table.Cell>
                      ))}
                    </Table.Row>
                  ))}
                </Table.Body>
              ))}
          </Table.Root>
        </Table.ScrollArea>
      )}
      {ordered.length > shown ? (
        <Button mt={2} onClick={() => setShown(shown + 5)} size="xs" variant="outline">
          Show more versions
        </Button>
      ) : null}
    </>
  );
};
