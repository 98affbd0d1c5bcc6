import { Table, Text } from "@chakra-ui/react";

import type { Gate } from "../api/types";
import { number } from "./format";

/** What a candidate had to pass: each gate with the required and the measured value. */
export const Gates = ({ gates }: { gates: Gate[] }) => (
  <Table.ScrollArea aria-label="Gates, scrollable" role="group" tabIndex={0}>
    <Table.Root aria-label="Gates" size="sm">
      <Table.Header>
        <Table.Row>
          {["Result", "Gate", "Measured", "Required", "Improvement"].map((title) => (
            <Table.ColumnHeader key={title}>{title}</Table.ColumnHeader>
          ))}
        </Table.Row>
      </Table.Header>
      <Table.Body>
        {gates.map((gate) => (
          <Table.Row key={gate.gate}>
            <Table.Cell color={gate.passed ? "green.fg" : "red.fg"} fontWeight="bold" whiteSpace="nowrap">
              {gate.passed ? "✓ passed" : "✕ failed"}
            </Table.Cell>
            <Table.Cell minW="240px" whiteSpace="normal">
              {gate.gate}
              <Text color="fg.muted" fontSize="xs">
                {gate.explanation}
              </Text>
            </Table.Cell>
            <Table.Cell>{number(gate.measured)}</Table.Cell>
            <Table.Cell>{number(gate.asked)}</Table.Cell>
            <Table.Cell whiteSpace="nowrap">
              {gate.improvement === undefined || gate.improvement === null
                ? "–"
                : `${number(gate.improvement)} (${number(gate.low)} to ${number(gate.high)})`}
            </Table.Cell>
          </Table.Row>
        ))}
      </Table.Body>
    </Table.Root>
  </Table.ScrollArea>
);
