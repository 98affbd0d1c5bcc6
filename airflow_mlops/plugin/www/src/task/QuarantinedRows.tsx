import { Box, Heading, Table, Text } from "@chakra-ui/react";

import type { Samples } from "../api/types";
import type { Loaded } from "../api/useData";
import { number } from "../parts/format";
import { Problems } from "../parts/Problems";

const shown = ({ dataset, rows }: Samples): string => {
  const total = dataset?.rows ?? rows.length;
  return rows.length < total ? `The first ${rows.length} of ${number(total)} rows:` : total === 1 ? "1 row:" : `All ${total} rows:`;
};

/** The first quarantined rows. The column `failed_expectations` says why each row was quarantined. */
export const QuarantinedRows = ({ loaded: { data, failure } }: { loaded: Loaded<Samples> }) => (
  <Box mt={4}>
    <Heading as="h3" mb={1} size="sm">
      Quarantined rows
    </Heading>
    {failure?.status === 403 ? <Text color="fg.muted">You need permission to read assets to see the rows.</Text> : <Problems failure={failure} />}
    {data ? (
      <>
        <Text color="fg.muted">
          {data.rows.length === 0 ? "No row was quarantined." : shown(data)}
        </Text>
        {data.rows.length === 0 ? null : (
          <Box aria-label="Quarantined rows" overflowX="auto" role="region" tabIndex={0}>
            <Table.Root size="sm">
              <Table.Header>
                <Table.Row>
                  {data.columns.map((column) => (
                    <Table.ColumnHeader key={column}>{column}</Table.ColumnHeader>
                  ))}
                </Table.Row>
              </Table.Header>
              <Table.Body>
                {data.rows.map((row, index) => (
                  <Table.Row key={index}>
                    {row.map((value, place) => (
                      <Table.Cell color={value === null ? "fg.muted" : undefined} key={place}>
                        {value ?? "null"}
                      </Table.Cell>
                    ))}
                  </Table.Row>
                ))}
              </Table.Body>
            </Table.Root>
          </Box>
        )}
      </>
    ) : null}
  </Box>
);
