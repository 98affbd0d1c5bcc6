import { Box, Heading, HStack, Table, Text } from "@chakra-ui/react";

import { apiPath } from "../api/client";
import type { Distribution as Found, Window } from "../api/types";
import { useData } from "../api/useData";
import { number, percent, pValue } from "../parts/format";
import { Loading } from "../parts/Loading";
import { Problems } from "../parts/Problems";
import { testMeaning } from "../parts/terms";

const COLORS = { reference: "var(--chakra-colors-fg-muted)", current: "var(--chakra-colors-orange-solid)" };

/** How a column is distributed in the reference and in one window, as shares. */
export const Distribution = ({ column, model, window }: { column: string; model: string; window: Window }) => {
  const query = new URLSearchParams({ start: window.start, end: window.end });
  const { data, failure } = useData<Found>(`${apiPath("models", model, "drift", column)}?${query}`);
  const largest = Math.max(1e-9, ...(data?.bins ?? []).flatMap(({ current, reference }) => [current, reference]));
  return (
    <Box mt={4}>
      <Heading as="h3" mb={2} size="sm">
        {column} in {window.label}
      </Heading>
      <Problems failure={failure} />
      {data === null && failure === null ? <Loading /> : null}
      {data === null ? null : (
        <>
          <Text mb={2}>
            {[
              data.effect === null ? null : `Effect ${number(data.effect)}`,
              data.test === null ? null : `test: ${data.test.replaceAll("_", " ")}`,
              data.adjusted_p_value === null ? null : `adjusted ${pValue(data.adjusted_p_value)}`,
              data.note,
            ]
              .filter(Boolean)
              .join(", ")}
          </Text>
          {data.test !== null && testMeaning(data.test) ? (
            <Text color="fg.muted" fontSize="xs" mb={2}>
              {testMeaning(data.test)}
            </Text>
          ) : null}
          <Table.ScrollArea aria-label="Distribution, scrollable" maxW="720px" role="group" tabIndex={0}>
            <Table.Root aria-label={`Distribution of ${column}`} size="sm">
              <Table.Header>
                <Table.Row>
                  <Table.ColumnHeader>Values</Table.ColumnHeader>
                  <Table.ColumnHeader>Share of rows</Table.ColumnHeader>
                  <Table.ColumnHeader textAlign="end">Reference</Table.ColumnHeader>
                  <Table.ColumnHeader textAlign="end">Window</Table.ColumnHeader>
                </Table.Row>
              </Table.Header>
              <Table.Body>
                {data.bins.map((bin, index) => (
                  <Table.Row key={index}>
                    <Table.Cell whiteSpace="nowrap">{bin.label}</Table.Cell>
                    <Table.Cell minW="180px" width="60%">
                      {(["reference", "current"] as const).map((side) => (
                        <Box
                          aria-hidden="true"
                          height="6px"
                          key={side}
                          mb="1px"
                          style={{ background: COLORS[side], width: `${(100 * bin[side]) / largest}%` }}
                        />
                      ))}
                    </Table.Cell>
                    <Table.Cell textAlign="end">{percent(bin.reference)}</Table.Cell>
                    <Table.Cell textAlign="end">{percent(bin.current)}</Table.Cell>
                  </Table.Row>
                ))}
              </Table.Body>
            </Table.Root>
          </Table.ScrollArea>
          <HStack color="fg.muted" fontSize="xs" gap={4} mt={1}>
            {(["reference", "current"] as const).map((side) => (
              <HStack gap={1} key={side}>
                <Box height="6px" style={{ background: COLORS[side] }} width="16px" />
                {side === "current" ? "this window" : "reference"}
              </HStack>
            ))}
          </HStack>
        </>
      )}
    </Box>
  );
};
