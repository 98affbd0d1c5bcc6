import { Box, Card, Stack, Table, Text } from "@chakra-ui/react";

import type { Overview } from "../api/types";
import { useWidth } from "../parts/useWidth";
import { COLUMNS, Name, Waiting } from "./columns";

const NARROW = 760;

/** Models as a table, or as cards where the page is narrow. */
export const ModelList = ({ models }: { models: Overview[] }) => {
  const [ref, width] = useWidth();
  return (
    <Box ref={ref} width="100%">
      {width === 0 ? null : width < NARROW ? (
        <Stack as="ul" gap={3} listStyleType="none">
          {models.map((model) => (
            <Card.Root as="li" key={model.name} size="sm">
              <Card.Body gap={2}>
                <Name model={model} />
                {COLUMNS.slice(0, 4).map(({ title, cell }) => (
                  <Box key={title}>
                    {title === COLUMNS[0]?.title ? null : (
                      <Text color="fg.muted" fontSize="xs">
                        {title}
                      </Text>
                    )}
                    {cell(model)}
                  </Box>
                ))}
                <Waiting model={model} />
              </Card.Body>
            </Card.Root>
          ))}
        </Stack>
      ) : (
        <Table.Root aria-label="Models" size="sm" striped>
          <Table.Header>
            <Table.Row>
              <Table.ColumnHeader>Model</Table.ColumnHeader>
              {COLUMNS.map(({ title }) => (
                <Table.ColumnHeader key={title}>{title}</Table.ColumnHeader>
              ))}
            </Table.Row>
          </Table.Header>
          <Table.Body>
            {models.map((model) => (
              <Table.Row key={model.name}>
                <Table.Cell>
                  <Name model={model} />
                </Table.Cell>
                {COLUMNS.map(({ title, cell }) => (
                  <Table.Cell key={title}>{cell(model)}</Table.Cell>
                ))}
              </Table.Row>
            ))}
          </Table.Body>
        </Table.Root>
      )}
    </Box>
  );
};
