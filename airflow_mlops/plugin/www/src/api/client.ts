/** Requests to the JSON API of this package and to Airflow's own, with the cookie of the user's session. */

export class Failure extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** The address of a path of the API server, which may be mounted below a prefix. */
export const address = (path: string): string => new URL(path, document.baseURI).href;

/** A path of `/mlops/api` from its parts. Names come from users, so each part is escaped. */
export const apiPath = (...parts: (string | number)[]): string =>
  ["mlops/api", ...parts.map((part) => encodeURIComponent(part))].join("/");

/** The path of a report that the API names, below `/mlops/artifacts/`. */
export const reportAddress = (report: string): string =>
  address("mlops/artifacts/" + report.split("/").map(encodeURIComponent).join("/"));

const explanation = async (response: Response): Promise<string> => {
  if (response.status === 401) return "Your session has ended. Reload the page to log in.";
  const body: unknown = await response.json().catch(() => null);
  const detail = (body as { detail?: unknown } | null)?.detail;
  return typeof detail === "string" ? detail : `The server answered with status ${response.status}.`;
};

const send = async <T>(path: string, init: RequestInit): Promise<T> => {
  let response: Response;
  try {
    response = await fetch(address(path), { credentials: "same-origin", ...init });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Failure(0, "The API server cannot be reached.");
  }
  if (!response.ok) throw new Failure(response.status, await explanation(response));
  return (await response.json()) as T;
};

export const get = <T>(path: string, signal?: AbortSignal): Promise<T> => send<T>(path, { signal });

export const change = <T>(method: "POST" | "PATCH", path: string, body: unknown): Promise<T> =>
  send<T>(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
