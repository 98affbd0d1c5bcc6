import { Button, Flex, Heading, HStack, Input, Text } from "@chakra-ui/react";
import { useSearchParams } from "react-router-dom";

import { apiPath } from "../api/client";
import type { Models } from "../api/types";
import { useData } from "../api/useData";
import { Loading } from "../parts/Loading";
import { Problems } from "../parts/Problems";
import { Choice } from "../parts/Choice";
import { choices, owners, PAGE, select, SORTS, viewOf } from "./filter";
import { ModelList } from "./ModelList";

const VERDICTS = { retrain: "retrain", watch: "watch", healthy: "healthy", none: "not monitored" };
const same = (names: string[]) => Object.fromEntries(names.map((name) => [name, name]));

/** Every model that the user may see. The URL holds the search, the filters, the order and the page. */
export const ModelsPage = () => {
  const { data, failure, reload } = useData<Models>(apiPath("models"), 60);
  const [params, setParams] = useSearchParams();
  const view = viewOf(params);
  const set = (name: string, value: string) =>
    setParams(
      (before) => {
        const after = new URLSearchParams(before);
        after.delete("page");
        if (value) after.set(name, value);
        else after.delete(name);
        return after;
      },
      { replace: true },
    );
  const models = data?.models ?? [];
  const found = select(models, view);
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  const page = Math.min(view.page, pages);
  return (
    <>
      <Heading as="h1" mb={3} size="xl">
        Models
      </Heading>
      <Problems failure={failure} onRetry={reload} texts={data?.problems} />
      <Flex flexWrap="wrap" gap={2} mb={3} role="search">
        <Input
          aria-label="Search models"
          maxW="260px"
          onChange={(event) => set("q", event.target.value)}
          placeholder="Search models"
          size="sm"
          type="search"
          value={view.text}
        />
        <Choice empty="All verdicts" label="Verdict" onChange={(value) => set("verdict", value)} options={VERDICTS} value={view.verdict} />
        <Choice empty="All owners" label="Owner" onChange={(value) => set("owner", value)} options={same(choices(models, owners))} value={view.owner} />
        <Choice empty="All tags" label="Tag" onChange={(value) => set("tag", value)} options={same(choices(models, (model) => model.tags))} value={view.tag} />
        <Choice label="Order" onChange={(value) => set("sort", value)} options={SORTS} value={view.sort} />
      </Flex>
      {data === null && failure === null ? <Loading /> : null}
      {data === null ? null : (
        <>
          <Text aria-live="polite" color="fg.muted" fontSize="sm" mb={2}>
            {found.length === models.length ? "" : `${found.length} of `}
            {models.length} {models.length === 1 ? "model" : "models"}
          </Text>
          {models.length === 0 ? <Text>There are no models yet. A model is listed once a DAG that you may read has trained, scored or monitored it.</Text> : null}
          <ModelList models={found.slice((page - 1) * PAGE, page * PAGE)} />
          {pages > 1 ? (
            <HStack aria-label="Pages" as="nav" mt={3}>
              <Button disabled={page === 1} onClick={() => set("page", String(page - 1))} size="xs" variant="outline">
                Previous
              </Button>
              <Text fontSize="sm">
                Page {page} of {pages}
              </Text>
              <Button disabled={page === pages} onClick={() => set("page", String(page + 1))} size="xs" variant="outline">
                Next
              </Button>
            </HStack>
          ) : null}
        </>
      )}
    </>
  );
};
