import { Box, ChakraProvider, createSystem, defaultConfig } from "@chakra-ui/react";
import { useParams } from "react-router-dom";

import { DagPage } from "./dag/DagPage";
import { ModelPage } from "./model/ModelPage";
import { ModelsPage } from "./models/ModelsPage";
import { TaskPage } from "./task/TaskPage";

type Shared = { ChakraUISystem?: ReturnType<typeof createSystem>; [name: string]: unknown };
const shared = globalThis as unknown as Shared;

/** Airflow passes the ids of the page on which the component stands; none on a page of the main navigation. */
type Place = { dagId?: string; runId?: string; taskId?: string; mapIndex?: string };

const Page = ({ dagId, mapIndex = "-1", runId, taskId }: Place) => {
  const name = useParams()["*"];
  if (dagId && runId && taskId) return <TaskPage dagId={dagId} mapIndex={mapIndex} runId={runId} taskId={taskId} />;
  if (dagId) return <DagPage dagId={dagId} />;
  return name ? <ModelPage key={name} name={name} /> : <ModelsPage />;
};

/** The plugin's only component. Airflow's own theme makes it look like the pages around it, in both colour modes. */
const MLOps = (place: Place) => (
  <ChakraProvider value={shared.ChakraUISystem ?? createSystem(defaultConfig)}>
    <Box color="fg" data-testid="mlops" fontSize="sm" height="100%" overflowY="auto" p={4}>
      <Page {...place} />
    </Box>
  </ChakraProvider>
);

// Airflow looks for a component under the app's name, and imports the bundle only once for several apps.
for (const name of ["Models", "MLOps"]) shared[name] = MLOps;
shared.AirflowPlugin = MLOps;
