import { Alert, Button, CloseButton, Dialog, Field, Portal, Textarea } from "@chakra-ui/react";
import { useState, type ReactNode } from "react";

import { Failure } from "../api/client";

type Props = {
  /** The text of the button that opens the dialog. */
  name: string;
  title: string;
  children: ReactNode;
  /** The label of the text field; without it, the dialog has no text field. */
  asks?: { label: string; required: boolean };
  confirm: string;
  /** Whether the user may confirm the action now. */
  ready?: boolean;
  /** Performs the action, and returns the result in one sentence. */
  act: (text: string) => Promise<string>;
  /** Called when the dialog closes after the action succeeded. */
  onDone: () => void;
};

/** A button with a dialog, which describes the action, asks for confirmation, and shows the result. */
export const Action = ({ act, asks, children, confirm, name, onDone, ready = true, title }: Props) => {
  const [open, setOpen] = useState(false);
  const [text, setText] = useState("");
  const [busy, setBusy] = useState(false);
  const [done, setDone] = useState<string | null>(null);
  const [failure, setFailure] = useState<string | null>(null);

  const toggle = (next: boolean) => {
    if (busy) return;
    if (!next && done !== null) onDone();
    setOpen(next);
    setText("");
    setDone(null);
    setFailure(null);
  };
  const run = async () => {
    setBusy(true);
    setFailure(null);
    try {
      setDone(await act(text.trim()));
    } catch (error) {
      setFailure(error instanceof Failure ? error.message : String(error));
    } finally {
      setBusy(false);
    }
  };
  const missing = asks?.required === true && text.trim() === "";
  return (
    <Dialog.Root onOpenChange={(details) => toggle(details.open)} open={open} scrollBehavior="inside" size="md">
      <Dialog.Trigger asChild>
        <Button size="sm" variant="outline">
          {name}
        </Button>
      </Dialog.Trigger>
      <Portal>
        <Dialog.Backdrop />
        <Dialog.Positioner>
          <Dialog.Content>
            <Dialog.Header>
              <Dialog.Title overflowWrap="anywhere">{title}</Dialog.Title>
            </Dialog.Header>
            <Dialog.Body fontSize="sm" overflowWrap="anywhere">
              {done === null ? (
                <>
                  {children}
                  {asks ? (
                    <Field.Root mt={3} required={asks.required}>
                      <Field.Label>
                        {asks.label}
                        <Field.RequiredIndicator />
                      </Field.Label>
                      <Textarea maxLength={1000} onChange={(event) => setText(event.target.value)} rows={3} value={text} />
                    </Field.Root>
                  ) : null}
                </>
              ) : (
                <Alert.Root role="status" status="success">
                  <Alert.Indicator />
                  <Alert.Description>{done}</Alert.Description>
                </Alert.Root>
              )}
              {failure === null ? null : (
                <Alert.Root mt={3} role="alert" status="error">
                  <Alert.Indicator />
                  <Alert.Description>{failure}</Alert.Description>
                </Alert.Root>
              )}
            </Dialog.Body>
            <Dialog.Footer>
              {done === null ? (
                <>
                  <Button disabled={busy} onClick={() => toggle(false)} size="sm" variant="outline">
                    Cancel
                  </Button>
                  <Button disabled={missing || !ready} loading={busy} onClick={() => void run()} size="sm">
                    {confirm}
                  </Button>
                </>
              ) : (
                <Button onClick={() => toggle(false)} size="sm">
                  Close
                </Button>
              )}
            </Dialog.Footer>
            <Dialog.CloseTrigger asChild>
              <CloseButton size="sm" />
            </Dialog.CloseTrigger>
          </Dialog.Content>
        </Dialog.Positioner>
      </Portal>
    </Dialog.Root>
  );
};
