import { Box, Spinner } from "@chakra-ui/react";

export const Loading = () => (
  <Box aria-label="Loading" role="status">
    <Spinner />
  </Box>
);
