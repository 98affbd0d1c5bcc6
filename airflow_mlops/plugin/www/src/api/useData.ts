import { useCallback, useEffect, useState } from "react";

import { Failure, get } from "./client";

export type Loaded<T> = { data: T | null; failure: Failure | null; reload: () => void };

type State<T> = { path: string | null; data: T | null; failure: Failure | null };

/**
 * Load JSON from `path`, and load it again every `seconds` while the page is visible. If a later request fails, the data
 * that was loaded before is kept. If `path` is `null`, nothing is loaded.
 */
export const useData = <T>(path: string | null, seconds = 0): Loaded<T> => {
  const [state, setState] = useState<State<T>>({ path: null, data: null, failure: null });
  const [round, setRound] = useState(0);
  const reload = useCallback(() => setRound((current) => current + 1), []);

  useEffect(() => {
    if (path === null) return;
    const controller = new AbortController();
    get<T>(path, controller.signal)
      .then((data) => setState({ path, data, failure: null }))
      .catch((error: unknown) => {
        if (controller.signal.aborted) return;
        const failure = error instanceof Failure ? error : new Failure(0, String(error));
        setState((before) => ({ path, data: before.path === path ? before.data : null, failure }));
      });
    return () => controller.abort();
  }, [path, round]);

  useEffect(() => {
    if (path === null || seconds <= 0) return;
    const timer = setInterval(() => document.visibilityState === "visible" && reload(), seconds * 1000);
    return () => clearInterval(timer);
  }, [path, seconds, reload]);

  const current = state.path === path;
  return { data: current ? state.data : null, failure: current ? state.failure : null, reload };
};
