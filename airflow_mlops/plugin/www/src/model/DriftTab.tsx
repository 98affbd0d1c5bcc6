import { Box, Flex, Text } from "@chakra-ui/react";
import { useSearchParams } from "react-router-dom";

import { apiPath } from "../api/client";
import type { Drift } from "../api/types";
import { useData } from "../api/useData";
import { Loading } from "../parts/Loading";
import { Problems } from "../parts/Problems";
import { Distribution } from "./Distribution";
import { Heatmap } from "./Heatmap";

/** The drift of the highest-ranked features, and the distributions of the selected feature and window. */
export const DriftTab = ({ name }: { name: string }) => {
  const { data, failure, reload } = useData<Drift>(`${apiPath("models", name, "drift")}?features=30&windows=36`);
  const [params, setParams] = useSearchParams();
  if (data === null) return failure ? <Problems failure={failure} onRetry={reload} /> : <Loading />;
  const row = data.features.findIndex(({ column }) => column === params.get("feature"));
  const column = data.windows.findIndex(({ label }) => label === params.get("window"));
  const selected = row < 0 || column < 0 ? null : { row, column };
  const feature = data.features[row];
  const window = data.windows[column];
  return (
    <>
      <Problems failure={failure} texts={data.problems} />
      {data.features.length === 0 ? (
        <Text>No window has been tested for drift yet.</Text>
      ) : (
        <Flex alignItems="flex-start" columnGap={8} flexWrap="wrap">
          <Box maxW="100%">
            <Heatmap
              drift={data}
              onSelect={(place) =>
                setParams(
                  (before) => {
                    const after = new URLSearchParams(before);
                    after.set("feature", data.features[place.row]?.column ?? "");
                    after.set("window", data.windows[place.column]?.label ?? "");
                    return after;
                  },
                  { replace: true },
                )
              }
              selected={selected}
            />
          </Box>
          {selected && feature && window ? (
            <Box flex="1" minW="min(340px, 100%)">
              <Distribution column={feature.column} model={name} window={window} />
            </Box>
          ) : null}
        </Flex>
      )}
    </>
  );
};
