import { Heading, Text } from "@chakra-ui/react";

import { apiPath } from "../api/client";
import type { Models } from "../api/types";
import { useData } from "../api/useData";
import { ModelList } from "../models/ModelList";
import { Loading } from "../parts/Loading";
import { Problems } from "../parts/Problems";

/** The models that a DAG trains, scores or monitors. */
export const DagPage = ({ dagId }: { dagId: string }) => {
  const { data, failure, reload } = useData<Models>(apiPath("dags", dagId), 60);
  const groups = (["train", "score", "monitor"] as const).map((work) => ({
    work,
    models: (data?.models ?? []).filter(({ dags }) => dags[work].includes(dagId)),
  }));
  return (
    <>
      <Problems failure={failure} onRetry={reload} texts={data?.problems} />
      {data === null && failure === null ? <Loading /> : null}
      {data?.models.length === 0 ? <Text>This DAG has not trained, scored or monitored a model yet.</Text> : null}
      {groups
        .filter(({ models }) => models.length > 0)
        .map(({ models, work }) => (
          <section key={work}>
            <Heading as="h2" mb={2} mt={3} size="md">
              {{ train: "Trains", score: "Scores", monitor: "Monitors" }[work]}
            </Heading>
            <ModelList models={models} />
          </section>
        ))}
    </>
  );
};
