import { Box, Button, Card, HStack, Link, Stack, Text } from "@chakra-ui/react";
import { useState } from "react";
import { Link as RouterLink } from "react-router-dom";

import { apiPath } from "../api/client";
import type { Decision, ModelFacts, Versions } from "../api/types";
import { useData } from "../api/useData";
import { change, kindOf } from "../parts/decisions";
import { moment } from "../parts/format";
import { Gates } from "../parts/Gates";
import { Problems } from "../parts/Problems";
import { taskPage } from "../routes";

const Approval = ({ approval }: { approval: Record<string, unknown> }) => (
  <Text>
    Approval:{" "}
    {Object.entries(approval)
      .filter(([, value]) => typeof value === "string" || typeof value === "number" || typeof value === "boolean")
      .map(([name, value]) => `${name.replaceAll("_", " ")} ${String(value)}`)
      .join(", ")}
  </Text>
);

const failure = ({ gates }: Decision["candidates"][number]) => {
  const failed = gates.filter(({ passed }) => !passed).length;
  return failed ? `failed ${failed}` : "failed";
};

const LONG = 300;

/** A reason. If it is long, only the first sentence is shown, and the others on demand. */
const Reason = ({ text }: { text: string }) => {
  const end = text.length > LONG ? text.search(/\. [A-Z]/) + 1 : 0;
  return end === 0 ? (
    <Text whiteSpace="pre-wrap">{text}</Text>
  ) : (
    <details>
      <Box as="summary" cursor="pointer">
        {text.slice(0, end)}
      </Box>
      <Text mt={1} whiteSpace="pre-wrap">
        {text.slice(end + 1)}
      </Text>
    </details>
  );
};

const Entry = ({ entry }: { entry: Decision }) => (
  <Card.Root as="li" data-decision={entry.decision} size="sm">
    <Card.Body gap={2}>
      <HStack flexWrap="wrap" gap={3}>
        <svg aria-hidden="true" height="14" viewBox="-8 -8 16 16" width="14">
          <path
            d={kindOf(entry.decision).path}
            fill={kindOf(entry.decision).open ? "none" : kindOf(entry.decision).color}
            stroke={kindOf(entry.decision).color}
            strokeWidth="2"
          />
        </svg>
        <Text fontWeight="bold">{kindOf(entry.decision).name}</Text>
        <Text>{change(entry)}</Text>
        <Text color="fg.muted">
          {moment(entry.time)}
          {entry.by ? `, by ${entry.by}` : ""}, entry {entry.seq}
        </Text>
        {entry.dag_id ? (
          <Link asChild color="fg.info">
            <RouterLink to={taskPage(entry)}>{entry.dag_id}</RouterLink>
          </Link>
        ) : null}
      </HStack>
      <Reason text={entry.reason} />
      {entry.approval ? <Approval approval={entry.approval} /> : null}
      {entry.candidates.map((candidate) => (
        <Box as="details" key={candidate.version}>
          <Box as="summary" cursor="pointer">
            Version {candidate.version}: {candidate.passed ? "passed every gate" : failure(candidate)} ({candidate.gates.length} {candidate.gates.length === 1 ? "gate" : "gates"})
          </Box>
          <Text color="fg.muted" my={1}>
            {candidate.reason}
          </Text>
          <Gates gates={candidate.gates} />
        </Box>
      ))}
    </Card.Body>
  </Card.Root>
);

/** The ledger, newest entry first, and whether it agrees with its chain of hashes and with the hashes in MLflow. */
export const DecisionsTab = ({ model }: { model: ModelFacts }) => {
  const [shown, setShown] = useState(20);
  const { chain, decisions } = model;
  // The chain cannot show a change to the last entry. MLflow has the hashes of promotions and rollbacks.
  const { data: versions } = useData<Versions>(apiPath("models", model.name, "versions"));
  return (
    <>
      {chain.intact ? (
        <Text color="fg.muted" mb={3}>
          {decisions.length === 0
            ? "There are no decisions yet."
            : `${decisions.length} ${decisions.length === 1 ? "entry" : "entries"}. The chain of hashes is intact.`}
        </Text>
      ) : (
        <Problems texts={[`The chain of hashes is broken. ${chain.problem ?? ""}`]} />
      )}
      {chain.intact && versions?.ledger ? <Problems texts={[versions.ledger]} /> : null}
      <Stack as="ul" gap={3} listStyleType="none">
        {decisions.slice(0, shown).map((entry) => (
          <Entry entry={entry} key={entry.seq} />
        ))}
      </Stack>
      {decisions.length > shown ? (
        <Button mt={3} onClick={() => setShown(shown + 50)} size="xs" variant="outline">
          Show earlier entries
        </Button>
      ) : null}
    </>
  );
};
