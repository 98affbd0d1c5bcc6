import { Table, Text } from "@chakra-ui/react";
import { useEffect, useState } from "react";

import { apiPath, change } from "../api/client";
import type { ActionDone, ModelFacts, Preview } from "../api/types";
import { useData } from "../api/useData";
import { Choice } from "../parts/Choice";
import { moment, number } from "../parts/format";
import { Loading } from "../parts/Loading";
import { Problems } from "../parts/Problems";
import { Action } from "./Action";

const Shown = ({ name, onShown, version }: { name: string; version: number | null; onShown: (shown: Preview | null) => void }) => {
  const { data, failure } = useData<Preview>(apiPath("models", name, "rollback") + (version === null ? "" : `?version=${version}`));
  useEffect(() => onShown(data), [data, onShown]);
  if (data === null) return failure ? <Problems failure={failure} /> : <Loading />;
  const sides = [data.current, data.target];
  const metrics = [...new Set(sides.flatMap((side) => Object.keys(side.metrics)))];
  return (
    <>
      <Text my={2}>{data.message}</Text>
      <Table.Root aria-label="What would change" size="sm">
        <Table.Header>
          <Table.Row>
            <Table.ColumnHeader />
            <Table.ColumnHeader>Current champion: {data.current.version}</Table.ColumnHeader>
            <Table.ColumnHeader>After the rollback: {data.target.version}</Table.ColumnHeader>
          </Table.Row>
        </Table.Header>
        <Table.Body>
          <Table.Row>
            <Table.Cell>created</Table.Cell>
            {sides.map(({ created, version: key }) => (
              <Table.Cell key={key}>{created ? moment(created) : "–"}</Table.Cell>
            ))}
          </Table.Row>
          {metrics.map((metric) => (
            <Table.Row key={metric}>
              <Table.Cell>{metric}</Table.Cell>
              {sides.map((side) => (
                <Table.Cell key={side.version}>{number(side.metrics[metric]?.value)}</Table.Cell>
              ))}
            </Table.Row>
          ))}
        </Table.Body>
      </Table.Root>
    </>
  );
};

/** A rollback to a former champion. The dialog shows the changes before the user can confirm them. */
export const Rollback = ({ model, onDone }: { model: ModelFacts; onDone: () => void }) => {
  const [version, setVersion] = useState<number | null>(null);
  const [shown, setShown] = useState<Preview | null>(null);
  if (model.champion === null || !model.decisions.some(({ replaced }) => replaced !== null)) return null;
  const target = shown?.target.version;
  return (
    <Action
      act={async (reason) => {
        const body = { version: target, reason, champion: shown?.current.version };
        return (await change<ActionDone>("POST", apiPath("models", model.name, "rollback"), body)).message;
      }}
      asks={{ label: "Reason (recorded in the ledger)", required: true }}
      confirm={target === undefined ? "Roll back" : `Roll back to version ${target}`}
      name="Roll back"
      onDone={onDone}
      ready={shown !== null}
      title={`Roll back ${model.name}`}
    >
      {shown && shown.former.length > 1 ? (
        <Choice
          label="Version"
          onChange={(value) => setVersion(Number(value))}
          options={Object.fromEntries(shown.former.map((one) => [String(one), `Version ${one}`]))}
          value={String(target)}
        />
      ) : null}
      <Shown name={model.name} onShown={setShown} version={version} />
    </Action>
  );
};
