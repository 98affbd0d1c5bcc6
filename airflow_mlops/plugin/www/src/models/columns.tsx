import { Badge, Box, HStack, Link, Text } from "@chakra-ui/react";
import type { ReactNode } from "react";
import { Link as RouterLink } from "react-router-dom";

import type { Overview } from "../api/types";
import { number, percent } from "../parts/format";
import { newest, Sparkline } from "../parts/Sparkline";
import { Ago } from "../parts/Time";
import { VerdictMark } from "../parts/VerdictMark";
import { modelPage, requiredAction } from "../routes";
import { replacedSince } from "./filter";

export const Name = ({ model }: { model: Overview }) => (
  <Link asChild color="fg.info" fontWeight="bold" minW="140px" overflowWrap="anywhere">
    <RouterLink to={modelPage(model.name)}>{model.name}</RouterLink>
  </Link>
);

const Muted = ({ children }: { children: ReactNode }) => (
  <Text color="fg.muted" fontSize="xs" overflowWrap="anywhere">
    {children}
  </Text>
);

const State = ({ model }: { model: Overview }) => (
  <Box minW="180px" overflowWrap="anywhere">
    <HStack flexWrap="wrap" gap={2}>
      <VerdictMark verdict={model.monitoring?.verdict ?? null} />
      {model.monitoring?.acknowledged ? <Badge size="xs">acknowledged</Badge> : null}
    </HStack>
    {model.monitoring ? <Muted>{model.monitoring.headline}</Muted> : null}
    {replacedSince(model) ? <Muted>After this verdict, version {model.champion?.version} became champion.</Muted> : null}
    {model.problems.map((problem) => (
      <Text color="fg.warning" fontSize="xs" key={problem} overflowWrap="anywhere">
        {problem}
      </Text>
    ))}
  </Box>
);

const Metric = ({ model: { monitoring } }: { model: Overview }) => {
  if (!monitoring || monitoring.metric === null) return <>–</>;
  const last = newest(monitoring.trend);
  return (
    <Box>
      <Sparkline metric={monitoring.metric} trend={monitoring.trend} />
      <Muted>
        {monitoring.metric} {number(last.value)}
        {last.value !== null && last.estimated ? " (estimated)" : ""},{" "}
        <Text as="span" whiteSpace="nowrap">
          {monitoring.window.label}
        </Text>
      </Muted>
    </Box>
  );
};

const Champion = ({ model: { champion, candidate } }: { model: Overview }) =>
  champion ? (
    <Box whiteSpace="nowrap">
      Version {champion.version}
      <Muted>
        <Ago time={champion.since} />
      </Muted>
    </Box>
  ) : (
    <Box whiteSpace="nowrap">
      no champion
      {candidate ? (
        <Muted>
          version {candidate.version} trained <Ago time={candidate.trained} />
        </Muted>
      ) : null}
    </Box>
  );

const Fresh = ({ model }: { model: Overview }) => (
  <Box>
    {model.scoring ? (
      <>
        scored <Ago time={model.scoring.scored_at} />
      </>
    ) : (
      "not scored"
    )}
    <Muted>
      {model.labels_until ? `labels until ${model.labels_until.slice(0, 10)}` : "no labels"}
      {model.labels_until && model.monitoring ? `, ${percent(model.monitoring.coverage)} of the last window labelled` : ""}
    </Muted>
  </Box>
);

export const Waiting = ({ model }: { model: Overview }) => (
  <Box minW="90px" overflowWrap="anywhere">
    {model.approval ? (
      <Link asChild color="fg.info" display="inline" overflowWrap="anywhere">
        <RouterLink to={requiredAction(model.approval)}>Approval: {model.approval.subject}</RouterLink>
      </Link>
    ) : null}
    {model.request ? (
      <Text title={model.request.reason}>
        {model.request.started ? "Training began" : "Retraining requested"} <Ago time={model.request.started ?? model.request.created} />
      </Text>
    ) : null}
  </Box>
);

export type Column = { title: string; cell: (model: Overview) => ReactNode };

export const COLUMNS: Column[] = [
  { title: "Verdict", cell: (model) => <State model={model} /> },
  { title: "Metric", cell: (model) => <Metric model={model} /> },
  { title: "Champion", cell: (model) => <Champion model={model} /> },
  { title: "Freshness", cell: (model) => <Fresh model={model} /> },
  { title: "Pending", cell: (model) => <Waiting model={model} /> },
  { title: "Owner", cell: ({ owner }) => <Box minW="60px" overflowWrap="anywhere">{owner ?? "–"}</Box> },
];
