import type { Decision, DecisionKind } from "../api/types";

type Kind = { name: string; path: string; color: string; open?: boolean };

/** Name, shape and colour of each kind of decision. An open shape is drawn as a line. */
const KINDS: Record<DecisionKind, Kind> = {
  promoted: { name: "Promotion", path: "M0 -6L6 5H-6Z", color: "var(--chakra-colors-green-solid)" },
  rolled_back: { name: "Rollback", path: "M0 6L6 -5H-6Z", color: "var(--chakra-colors-purple-solid)" },
  moved_outside: { name: "Change in MLflow", path: "M-6 0H5M1 -4L5 0L1 4", color: "var(--chakra-colors-yellow-solid)", open: true },
  refused: { name: "Refusal", path: "M-5 -5L5 5M5 -5L-5 5", color: "var(--chakra-colors-red-solid)", open: true },
  requested: { name: "Retraining request", path: "M0 -6L6 0L0 6L-6 0Z", color: "var(--chakra-colors-orange-solid)" },
  acknowledged: { name: "Acknowledgement", path: "M-6 0L-2 5L6 -5", color: "var(--chakra-colors-blue-solid)", open: true },
  received: { name: "Copy from another registry", path: "M0 6L6 -1H2V-6H-2V-1H-6Z", color: "var(--chakra-colors-blue-solid)" },
  deployed: { name: "Deployment", path: "M-5 -5H5V5H-5Z", color: "var(--chakra-colors-teal-solid)" },
  undeployed: { name: "Endpoint removed", path: "M-5 -5H5V5H-5Z", color: "var(--chakra-colors-teal-solid)", open: true },
  canary_started: { name: "Canary started", path: "M-6 5L0 -5L6 5", color: "var(--chakra-colors-cyan-solid)", open: true },
  canary_widened: { name: "Canary share increased", path: "M-6 5L0 -5L6 5Z", color: "var(--chakra-colors-cyan-solid)" },
  canary_held: { name: "Canary share unchanged", path: "M-6 -2H6M-6 2H6", color: "var(--chakra-colors-cyan-solid)", open: true },
  canary_withdrawn: { name: "Canary withdrawn", path: "M-5 -5L5 5M5 -5L-5 5", color: "var(--chakra-colors-orange-solid)", open: true },
};

/** Name, shape and colour of a kind of decision, which may be one of a newer release. */
export const kindOf = (decision: string): Kind =>
  (KINDS as Record<string, Kind>)[decision] ?? {
    name: decision.replaceAll("_", " "),
    path: "M-3 0A3 3 0 1 0 3 0A3 3 0 1 0 -3 0",
    color: "var(--chakra-colors-gray-solid)",
  };

/** What a decision changed, such as "version 3 replaced version 2". */
export const change = ({ canary, champion, decision, endpoint, replaced, window }: Decision): string => {
  if (endpoint)
    return `version ${endpoint.version.version}${endpoint.follows ? " (follows the champion)" : ""}, ${endpoint.namespace}/${endpoint.name}`;
  if (canary && decision !== "promoted")
    return `version ${canary.version.version} answers ${canary.share ? `${Math.round(1000 * canary.share) / 10}% of the` : "no"} requests`;
  if (decision === "acknowledged" || decision === "requested") return window ? `window ${window.label}` : "";
  if (decision === "refused") return champion === null ? "no champion" : `version ${champion} stays champion`;
  if (decision !== "promoted" && decision !== "rolled_back" && decision !== "moved_outside") return "";
  if (champion === null) return replaced === null ? "" : `version ${replaced} is no longer champion`;
  return replaced === null ? `version ${champion} became champion` : `version ${champion} replaced version ${replaced}`;
};
