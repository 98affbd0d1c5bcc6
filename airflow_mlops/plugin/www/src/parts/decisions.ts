import type { Decision, DecisionKind } from "../api/types";

/** Name, shape and colour of each kind of decision. */
export const KINDS: Record<DecisionKind, { name: string; path: string; color: string }> = {
  promoted: { name: "Promotion", path: "M0 -6L6 5H-6Z", color: "var(--chakra-colors-green-solid)" },
  rolled_back: { name: "Rollback", path: "M0 6L6 -5H-6Z", color: "var(--chakra-colors-purple-solid)" },
  refused: { name: "Refusal", path: "M-5 -5L5 5M5 -5L-5 5", color: "var(--chakra-colors-red-solid)" },
  requested: { name: "Request for retraining", path: "M0 -6L6 0L0 6L-6 0Z", color: "var(--chakra-colors-orange-solid)" },
  acknowledged: { name: "Acknowledgement", path: "M-6 0L-2 5L6 -5", color: "var(--chakra-colors-blue-solid)" },
};

/** What a decision changed, such as "version 3 replaced version 2". */
export const change = ({ champion, decision, replaced, window }: Decision): string => {
  if (decision === "acknowledged" || decision === "requested") return window ? `window ${window.label}` : "";
  if (decision === "refused") return champion === null ? "no champion" : `version ${champion} stays champion`;
  if (champion === null) return replaced === null ? "" : `version ${replaced} is no longer champion`;
  return replaced === null ? `version ${champion} became champion` : `version ${champion} replaced version ${replaced}`;
};
