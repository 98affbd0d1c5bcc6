import { Badge, Box, Heading, HStack, Link, List, Tabs, Text } from "@chakra-ui/react";
import { Link as RouterLink, useSearchParams } from "react-router-dom";

import { Actions } from "../actions/Actions";
import { apiPath } from "../api/client";
import type { ModelFacts } from "../api/types";
import { useData } from "../api/useData";
import { moment, number, percent } from "../parts/format";
import { Loading } from "../parts/Loading";
import { Problems } from "../parts/Problems";
import { Ago } from "../parts/Time";
import { VerdictMark } from "../parts/VerdictMark";
import { dagPage, modelsPage, requiredAction, runPage } from "../routes";
import { replacedSince } from "../models/filter";
import { DataTab } from "./DataTab";
import { DecisionsTab } from "./DecisionsTab";
import { DriftTab } from "./DriftTab";
import { TimelineTab } from "./TimelineTab";
import { VersionsTab } from "./VersionsTab";

const TABS = { timeline: "Timeline", drift: "Drift", decisions: "Decisions", versions: "Versions", data: "Data" };

const Dags = ({ dags }: { dags: ModelFacts["dags"] }) => (
  <>
    {(["train", "score", "monitor"] as const).flatMap((work) =>
      dags[work].map((dag) => (
        <Text as="span" key={work + dag} mr={3}>
          {work}:{" "}
          <Link asChild color="fg.info">
            <RouterLink to={dagPage(dag)}>{dag}</RouterLink>
          </Link>
        </Text>
      )),
    )}
  </>
);

const SHOWN = 3;

const Sentences = ({ texts }: { texts: string[] }) => (
  <List.Root pl={5}>
    {texts.map((text) => (
      <List.Item key={text}>{text}</List.Item>
    ))}
  </List.Root>
);

/** The facts behind the verdict; the first ones matter most. */
const Details = ({ texts }: { texts: string[] }) =>
  texts.length === 0 ? null : (
    <Box mb={2}>
      <Sentences texts={texts.slice(0, SHOWN)} />
      {texts.length > SHOWN ? (
        <details>
          <Box as="summary" color="fg.info" cursor="pointer" pl={1}>
            {texts.length - SHOWN} more
          </Box>
          <Sentences texts={texts.slice(SHOWN)} />
        </details>
      ) : null}
    </Box>
  );

/** A link to the run that trains because of a request. */
const Training = ({ request: { training } }: { request: NonNullable<ModelFacts["request"]> }) =>
  training ? (
    <Link asChild color="fg.info">
      <RouterLink to={runPage(training)}>The training in DAG {training.dag_id}</RouterLink>
    </Link>
  ) : (
    <>The training</>
  );

const Facts = ({ model }: { model: ModelFacts }) => (
  <Box mb={4} overflowWrap="anywhere">
    <HStack flexWrap="wrap" gap={3} mb={1}>
      <VerdictMark verdict={model.monitoring?.verdict ?? null} />
      <Text minW={0}>{model.monitoring?.headline}</Text>
    </HStack>
    {replacedSince(model) ? (
      <Text>
        After this verdict, version {model.champion?.version} became champion. The window has not been checked again.
      </Text>
    ) : null}
    <Details texts={model.details} />
    {model.approval ? (
      <Text fontWeight="bold">
        Approval is pending:{" "}
        <Link asChild color="fg.info" display="inline">
          <RouterLink to={requiredAction(model.approval)}>{model.approval.subject}</RouterLink>
        </Link>
        {model.approval.can_answer
          ? ""
          : model.approval.assignees.length
            ? ` Airflow does not let you answer. Assigned users: ${model.approval.assignees.join(", ")}.`
            : " Airflow does not let you answer requests of this DAG."}
      </Text>
    ) : null}
    <Text>
      {model.champion ? (
        <>
          Version {model.champion.version} became champion <Ago time={model.champion.since} />
          {model.champion.by ? ` (${model.champion.by})` : ""}. {model.champion.reason}
        </>
      ) : (
        "There is no champion."
      )}
      {model.candidate && model.candidate.version !== model.champion?.version ? (
        <>
          {" "}
          Version {model.candidate.version} was trained <Ago time={model.candidate.trained} />.
        </>
      ) : null}
    </Text>
    {model.scoring ? (
      <Text>
        Version {model.scoring.version} scored {number(model.scoring.rows)} rows
        {model.scoring.window ? ` of ${model.scoring.window.label}` : ""} <Ago time={model.scoring.scored_at} />.{" "}
        {model.labels_until ? `Labels are known until ${moment(model.labels_until)}.` : "No labels yet."}
        {model.monitoring ? ` ${percent(model.monitoring.coverage)} of the predictions of the last window have a label.` : ""}
      </Text>
    ) : null}
    {model.request ? (
      <Text>
        Retraining was requested <Ago time={model.request.created} />
        {model.request.by ? ` by ${model.request.by}` : ""}: {model.request.reason}
        {model.request.started ? (
          <>
            {" "}
            <Training request={model.request} /> began <Ago time={model.request.started} />, and no version has been promoted or refused for it.
          </>
        ) : (
          " No training has begun yet."
        )}
      </Text>
    ) : null}
    {model.monitoring?.acknowledged ? (
      <Text>
        Acknowledged by {model.monitoring.acknowledged.by} <Ago time={model.monitoring.acknowledged.at} />
        {model.monitoring.acknowledged.note ? `: ${model.monitoring.acknowledged.note}` : ""}
      </Text>
    ) : null}
    <Text color="fg.muted">
      <Dags dags={model.dags} />
      {model.owner ? `owner: ${model.owner}` : ""}
    </Text>
  </Box>
);

/** Everything about one model. The URL holds the tab and what is selected in it. */
export const ModelPage = ({ name }: { name: string }) => {
  const { data: model, failure, reload } = useData<ModelFacts>(apiPath("models", name), 60);
  const [params, setParams] = useSearchParams();
  const asked = params.get("tab") ?? "";
  const tab = Object.hasOwn(TABS, asked) ? asked : "timeline";
  return (
    <>
      <Link asChild color="fg.info" fontSize="sm">
        <RouterLink to={modelsPage}>Models</RouterLink>
      </Link>
      <HStack flexWrap="wrap" gap={3} mb={2}>
        <Heading as="h1" overflowWrap="anywhere" size="xl">
          {name}
        </Heading>
        {model?.tags.map((tag) => (
          <Badge key={tag} maxW="100%" overflowWrap="anywhere" whiteSpace="normal">
            {tag}
          </Badge>
        ))}
      </HStack>
      <Problems
        failure={failure}
        onRetry={reload}
        texts={model?.problems}
      />
      {model === null && failure === null ? <Loading /> : null}
      {model === null ? null : (
        <>
          <Facts model={model} />
          <Actions model={model} onDone={reload} />
          <Tabs.Root
            lazyMount
            onValueChange={({ value }) => setParams({ tab: value }, { replace: true })}
            size="sm"
            unmountOnExit
            value={tab}
          >
            <Tabs.List mb={2} overflowX="auto" overflowY="hidden">
              {Object.entries(TABS).map(([key, title]) => (
                <Tabs.Trigger flexShrink={0} key={key} value={key}>
                  {title}
                </Tabs.Trigger>
              ))}
            </Tabs.List>
            <Tabs.Content value="timeline">
              <TimelineTab model={model} />
            </Tabs.Content>
            <Tabs.Content value="drift">
              <DriftTab name={name} />
            </Tabs.Content>
            <Tabs.Content value="decisions">
              <DecisionsTab model={model} />
            </Tabs.Content>
            <Tabs.Content value="versions">
              <VersionsTab name={name} />
            </Tabs.Content>
            <Tabs.Content value="data">
              <DataTab name={name} />
            </Tabs.Content>
          </Tabs.Root>
        </>
      )}
    </>
  );
};
