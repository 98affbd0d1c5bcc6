import { HStack, Text } from "@chakra-ui/react";

import type { Verdict } from "../api/types";

/** Colours by verdict, for shapes and dots. Each verdict also has its own shape and its name as text. */
export const COLOR: Record<Verdict | "none", string> = {
  healthy: "var(--chakra-colors-green-solid)",
  watch: "var(--chakra-colors-amber-500, var(--chakra-colors-yellow-500))",
  retrain: "var(--chakra-colors-red-solid)",
  none: "var(--chakra-colors-fg-muted)",
};

export const shapePath = (verdict: Verdict, size: number): string => {
  const r = size / 2;
  if (verdict === "watch") return `M0 ${-r}L${r} ${r * 0.8}H${-r}Z`;
  if (verdict === "retrain") return `M${-r * 0.85} ${-r * 0.85}h${size * 0.85}v${size * 0.85}h${-size * 0.85}Z`;
  return `M${-r} 0a${r} ${r} 0 1 0 ${size} 0a${r} ${r} 0 1 0 ${-size} 0Z`;
};

/** A verdict as shape, colour and word. `null` stands for a model that has not been monitored yet. */
export const VerdictMark = ({ verdict }: { verdict: Verdict | null }) => (
  <HStack as="span" display="inline-flex" gap={2} whiteSpace="nowrap">
    <svg aria-hidden="true" height="14" viewBox="-8 -8 16 16" width="14">
      {verdict === null ? (
        <circle fill="none" r="6" stroke={COLOR.none} strokeDasharray="2 2" strokeWidth="1.5" />
      ) : (
        <path d={shapePath(verdict, 14)} fill={COLOR[verdict]} />
      )}
    </svg>
    <Text as="span" fontWeight={verdict === "retrain" ? "bold" : undefined}>
      {verdict ?? "not monitored"}
    </Text>
  </HStack>
);
