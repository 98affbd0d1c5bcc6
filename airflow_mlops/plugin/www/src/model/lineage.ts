import type { ModelData } from "../api/types";

type Node = ModelData["lineage"]["nodes"][number];
export type Placed = Node & { layer: number; row: number };

/**
 * Places nodes in layers. The layer of a node comes directly after the last layer of its parents. Edges to unknown nodes
 * and edges that close a cycle are ignored.
 */
export const layers = ({ edges, nodes }: ModelData["lineage"]): Placed[] => {
  const known = new Set(nodes.map(({ id }) => id));
  const parents = new Map<string, string[]>();
  for (const [from, to] of edges) if (known.has(from) && known.has(to)) parents.set(to, [...(parents.get(to) ?? []), from]);
  const found = new Map<string, number>();
  const open = new Set<string>();
  const layer = (id: string): number => {
    const before = found.get(id);
    if (before !== undefined) return before;
    if (open.has(id)) return -1;
    open.add(id);
    const own = 1 + Math.max(-1, ...(parents.get(id) ?? []).map(layer));
    open.delete(id);
    found.set(id, own);
    return own;
  };
  const rows = new Map<number, number>();
  return nodes.map((node) => {
    const own = layer(node.id);
    const row = rows.get(own) ?? 0;
    rows.set(own, row + 1);
    return { ...node, layer: own, row };
  });
};
