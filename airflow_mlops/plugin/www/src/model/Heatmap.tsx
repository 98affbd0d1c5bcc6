import { Box, Table, Text } from "@chakra-ui/react";
import { useEffect, useRef, type KeyboardEvent } from "react";

import type { Drift, DriftCell } from "../api/types";
import { number, percent } from "../parts/format";

type Place = { row: number; column: number };
type Props = { drift: Drift; selected: Place | null; onSelect: (place: Place) => void };

const describe = (cell: DriftCell): string => {
  if (cell === null) return "not tested";
  if (cell.broken) return "broken";
  return `effect ${number(cell.effect)}${cell.drifted ? ", drifted" : ""}`;
};

/** A larger effect has a stronger colour. Broken columns have the strongest colour. */
const background = (cell: DriftCell): string => {
  if (cell === null) return "transparent";
  const share = cell.broken ? 1 : Math.min(1, Math.max(0, (cell.effect ?? 0) / 0.5));
  return `color-mix(in srgb, var(--chakra-colors-orange-solid) ${Math.round(share * 80)}%, var(--chakra-colors-bg-muted))`;
};

/** The names of the features stay visible while the windows are scrolled. On a narrow screen, they use less width. */
const NAME = {
  background: "var(--chakra-colors-bg)",
  left: 0,
  minWidth: "min(260px, 36vw)",
  overflowWrap: "anywhere",
  paddingRight: 8,
  position: "sticky",
  textAlign: "left",
  whiteSpace: "normal",
} as const;

/** A map of features by windows. One cell is in the tab order, and the arrow keys move to the other cells. */
export const Heatmap = ({ drift, onSelect, selected }: Props) => {
  const table = useRef<HTMLTableElement>(null);
  const area = useRef<HTMLDivElement>(null);
  const { cells, features, windows } = drift;
  // Where not all windows fit, the newest ones are shown first.
  useEffect(() => {
    if (area.current) area.current.scrollLeft = area.current.scrollWidth;
  }, [windows.length]);
  const active = selected ?? { row: 0, column: windows.length - 1 };
  const move = (event: KeyboardEvent, place: Place) => {
    const steps: Record<string, [number, number]> = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const row = Math.min(features.length - 1, Math.max(0, place.row + step[0]));
    const column = Math.min(windows.length - 1, Math.max(0, place.column + step[1]));
    table.current?.querySelector<HTMLElement>(`[data-cell="${row}-${column}"]`)?.focus();
  };
  return (
    <Box>
      <Text color="fg.muted" fontSize="xs" maxW="560px" mb={2}>
        Features are ranked by drift times importance. The importance is in brackets. ● drifted, ✕ broken, dashed: not tested. A stronger colour means a larger
        effect. The effect is the smallest share of rows that would need a different value to match the reference. Select a cell to compare the distributions.
      </Text>
      <Table.ScrollArea maxW="100%" ref={area}>
        <table aria-label="Drift of features by window" ref={table} style={{ borderSpacing: 2, borderCollapse: "separate" }}>
          <thead>
            <tr>
              <th scope="col" style={{ ...NAME, verticalAlign: "bottom" }}>
                Feature
              </th>
              {windows.map(({ label }, column) => (
                <th key={label} scope="col" style={{ fontWeight: "normal", fontSize: 10, height: 62, verticalAlign: "bottom" }} title={label}>
                  <span style={{ writingMode: "vertical-rl", visibility: windows.length > 40 && column % 4 ? "hidden" : undefined }}>
                    {label.slice(0, 10)}
                  </span>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {features.map(({ column: name, importance }, row) => (
              <tr key={name}>
                <th scope="row" style={{ ...NAME, fontWeight: "normal" }}>
                  {name}
                  {importance === null ? "" : ` (${percent(importance)})`}
                </th>
                {windows.map((window, column) => {
                  const cell = cells[row]?.[column] ?? null;
                  const chosen = selected?.row === row && selected.column === column;
                  return (
                    <td key={window.label} style={{ padding: 0 }}>
                      <button
                        aria-label={`${name}, ${window.label}: ${describe(cell)}`}
                        aria-pressed={chosen}
                        data-cell={`${row}-${column}`}
                        disabled={cell === null}
                        onClick={() => onSelect({ row, column })}
                        onKeyDown={(event) => move(event, { row, column })}
                        style={{
                          background: background(cell),
                          border: chosen ? "2px solid var(--chakra-colors-fg)" : `1px ${cell === null ? "dashed" : "solid"} var(--chakra-colors-border)`,
                          borderRadius: 3,
                          color: "var(--chakra-colors-fg)",
                          cursor: cell === null ? "default" : "pointer",
                          display: "block",
                          fontSize: 10,
                          height: 24,
                          width: 24,
                        }}
                        tabIndex={active.row === row && active.column === column ? 0 : -1}
                        title={`${name}, ${window.label}: ${describe(cell)}`}
                        type="button"
                      >
                        {cell?.broken ? "✕" : cell?.drifted ? "●" : ""}
                      </button>
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </Table.ScrollArea>
    </Box>
  );
};
