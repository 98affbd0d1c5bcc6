import { describe, expect, it } from "vitest";

import type { Decision } from "../api/types";
import { change, kindOf } from "./decisions";

const moved = (replaced: number | null, champion: number | null) =>
  change({ decision: "moved_outside", champion, replaced, window: null } as Decision);

describe("a champion that was changed in MLflow", () => {
  it("has its own name, and names the versions before and after", () => {
    expect(kindOf("moved_outside").name).toBe("Change in MLflow");
    expect(moved(2, 3)).toBe("version 3 replaced version 2");
    expect(moved(null, 3)).toBe("version 3 became champion");
    expect(moved(3, null)).toBe("version 3 is no longer champion");
  });
});
