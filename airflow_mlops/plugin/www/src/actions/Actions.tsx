import { HStack, Text } from "@chakra-ui/react";

import { apiPath, change } from "../api/client";
import type { ActionDone, ModelFacts } from "../api/types";
import { Action } from "./Action";
import { answer } from "./approval";
import { Rollback } from "./Rollback";

/** The actions that the user may perform. Airflow's human-in-the-loop decides who may answer a request for approval. */
export const Actions = ({ model, onDone }: { model: ModelFacts; onDone: () => void }) => {
  const { approval, monitoring, name } = model;
  const post = async (action: string, body: unknown) =>
    (await change<ActionDone>("POST", apiPath("models", name, action), body)).message;
  return (
    <HStack flexWrap="wrap" gap={2} mb={3}>
      {approval?.can_answer
        ? (["Approve", "Reject"] as const).map((option) => (
            <Action
              act={(note) => answer(approval, option, note)}
              asks={{ label: "Note (recorded in the ledger)", required: false }}
              confirm={option}
              key={option}
              name={option}
              onDone={onDone}
              title={`${option}: ${approval.subject}`}
            >
              <Text>
                Task {approval.task_id} of DAG {approval.dag_id} waits for this answer.
              </Text>
            </Action>
          ))
        : null}
      {model.can_act ? (
        <>
          {monitoring?.verdict === "watch" && monitoring.acknowledged === null ? (
            <Action
              act={(note) =>
                post("acknowledge", { window: monitoring.window, note })
              }
              asks={{ label: "Note (recorded in the ledger)", required: false }}
              confirm="Acknowledge"
              name="Acknowledge"
              onDone={onDone}
              title={`Acknowledge ${monitoring.window.label}`}
            >
              <Text>The ledger records that you have seen this: {monitoring.headline}</Text>
            </Action>
          ) : null}
          {monitoring || model.scoring ? (
            <Action
              act={(reason) => post("retrain", { reason })}
              asks={{ label: "Reason (recorded in the ledger)", required: true }}
              confirm="Request retraining"
              name="Request retraining"
              onDone={onDone}
              title={`Request retraining of ${name}`}
            >
              <Text>
                The request is recorded in the ledger. MonitorOperator's asset event is sent, which starts the DAGs that are
                scheduled on the asset{model.dags.train.length ? `: ${model.dags.train.join(", ")}` : ""}.
              </Text>
            </Action>
          ) : null}
          <Rollback model={model} onDone={onDone} />
        </>
      ) : null}
    </HStack>
  );
};
