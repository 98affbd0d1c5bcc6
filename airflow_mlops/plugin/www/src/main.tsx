import { Box, ChakraProvider, createSystem, defaultConfig } from "@chakra-ui/react";
import { useParams } from "react-router-dom";

import { ModelPage } from "./model/ModelPage";
import { ModelsPage } from "./models/ModelsPage";

type Shared = { ChakraUISystem?: ReturnType<typeof createSystem>; [name: string]: unknown };
const shared = globalThis as unknown as Shared;

const Page = () => {
  const name = useParams()["*"];
  return name ? <ModelPage key={name} name={name} /> : <ModelsPage />;
};

/** The plugin's only component. Airflow's own theme makes it look like the pages around it, in both colour modes. */
const MLOps = () => (
  <ChakraProvider value={shared.ChakraUISystem ?? createSystem(defaultConfig)}>
    <Box color="fg" fontSize="sm" height="100%" overflowY="auto" p={4}>
      <Page />
    </Box>
  </ChakraProvider>
);

// Airflow looks for a component under the app's name, and imports the bundle only once for several apps.
for (const name of ["Models", "MLOps"]) shared[name] = MLOps;
shared.AirflowPlugin = MLOps;
