import { Alert, Button } from "@chakra-ui/react";

import type { Failure } from "../api/client";

/** Errors and warnings about data that could not be read. The rest of the page is still shown. */
export const Problems = ({ failure, onRetry, texts = [] }: { failure?: Failure | null; onRetry?: () => void; texts?: string[] }) => (
  <>
    {failure ? (
      <Alert.Root mb={3} role="alert" status="error">
        <Alert.Indicator />
        <Alert.Content minW={0} overflowWrap="anywhere">
          <Alert.Description>{failure.message}</Alert.Description>
        </Alert.Content>
        {onRetry ? (
          <Button onClick={onRetry} size="xs" variant="outline">
            Try again
          </Button>
        ) : null}
      </Alert.Root>
    ) : null}
    {texts.map((text) => (
      <Alert.Root key={text} mb={3} status="warning">
        <Alert.Indicator />
        <Alert.Content minW={0} overflowWrap="anywhere">
          <Alert.Description>{text}</Alert.Description>
        </Alert.Content>
      </Alert.Root>
    ))}
  </>
);
