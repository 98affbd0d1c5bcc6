import { Box, Button, Flex, Text } from "@chakra-ui/react";
import { useState } from "react";
import { useSearchParams } from "react-router-dom";

import { apiPath } from "../api/client";
import type { Drift } from "../api/types";
import { useData } from "../api/useData";
import { Loading } from "../parts/Loading";
import { Problems } from "../parts/Problems";
import { Distribution } from "./Distribution";
import { Heatmap } from "./Heatmap";

const FEATURES = 30;
/** The API returns at most this number of features. */
const ALL = 500;

/** The drift of the highest-ranked features, and the distributions of the selected feature and window. */
export const DriftTab = ({ name }: { name: string }) => {
  const [most, setMost] = useState(FEATURES);
  const { data: found, failure, reload } = useData<Drift>(`${apiPath("models", name, "drift")}?features=${most}&windows=36`);
  const [data, setData] = useState(found);
  // While more features are loaded, those that were loaded before stay.
  if (found !== null && found !== data) setData(found);
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
            {most === FEATURES && data.features.length === FEATURES ? (
              <Button mt={2} onClick={() => setMost(ALL)} size="xs" variant="outline">
                Show all features
              </Button>
            ) : null}
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
