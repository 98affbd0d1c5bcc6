import { expect, it } from "vitest";

import { layers } from "./lineage";

const node = (id: string) => ({ id, kind: "dataset", name: id, label: id });

it("places each dataset behind all datasets from which it was made, and terminates if there is a cycle", () => {
  const edges: [string, string][] = [["raw", "clean"], ["clean", "model"], ["raw", "model"], ["gone", "model"], ["model", "raw"]];
  const placed = layers({ nodes: ["model", "clean", "raw"].map(node), edges: edges.slice(0, 4) });
  expect(Object.fromEntries(placed.map(({ id, layer }) => [id, layer]))).toEqual({ raw: 0, clean: 1, model: 2 });
  expect(layers({ nodes: ["model", "clean", "raw"].map(node), edges })).toHaveLength(3);
});
