import { describe, expect, it } from "vitest";

import { overview } from "../fixtures";
import { select, viewOf } from "./filter";

const models = [
  overview("b_healthy"),
  overview("c_retrain", "retrain", { owner: "risk, ops", tags: ["demo"] }),
  overview("a_watch", "watch"),
  overview("d_new", null, { owner: null, tags: [] }),
];
const names = (query: string) => select(models, viewOf(new URLSearchParams(query))).map((model) => model.name);

describe("the models that a URL asks for", () => {
  it("puts what needs attention first", () => {
    expect(names("")).toEqual(["c_retrain", "a_watch", "d_new", "b_healthy"]);
  });
  it("puts a waiting approval before a watch, and an acknowledged watch behind a new one", () => {
    const approval = { dag_id: "d", run_id: "r", task_id: "t", map_index: -1, subject: "Promote?", assignees: [], can_answer: false };
    const seen = overview("a_seen", "watch");
    seen.monitoring!.acknowledged = { by: "admin", at: "2013-04-02T00:00:00Z", note: "" };
    const view = viewOf(new URLSearchParams());
    const found = select([seen, overview("w", "watch"), overview("z", "healthy", { approval })], view);
    expect(found.map((model) => model.name)).toEqual(["z", "w", "a_seen"]);
  });
  it("puts a verdict that is older than the champion behind a new watch", () => {
    const champion = { version: 4, since: "2013-04-02T00:00:01Z", by: null, reason: "It passed." };
    const found = select([overview("a", "retrain", { champion }), overview("b", "watch"), overview("c", "retrain")], viewOf(new URLSearchParams()));
    expect(found.map((model) => model.name)).toEqual(["c", "b", "a"]);
  });
  it("filters by each field and by all fields together", () => {
    expect(names("verdict=watch")).toEqual(["a_watch"]);
    expect(names("verdict=none")).toEqual(["d_new"]);
    expect(names("owner=risk")).toEqual(["c_retrain"]);
    expect(names("tag=prod&sort=name")).toEqual(["a_watch", "b_healthy"]);
    expect(names("q=IS+retrain&owner=ops")).toEqual(["c_retrain"]);
    expect(names("q=nothing")).toEqual([]);
  });
  it("ignores unknown values in the address", () => {
    expect(viewOf(new URLSearchParams("sort=toString&page=-1"))).toMatchObject({ sort: "attention", page: 1 });
  });
});
