import type { Overview, Verdict } from "../api/types";

export const PAGE = 50;
export const SORTS = { attention: "Needs attention first", name: "Name", champion: "Newest champion first", scored: "Least recently scored first" };
export type Sort = keyof typeof SORTS;

/** The filters, the order and the page, as the URL contains them. */
export type View = { text: string; verdict: string; owner: string; tag: string; sort: Sort; page: number };

export const viewOf = (params: URLSearchParams): View => {
  const sort = params.get("sort") ?? "";
  const page = Number(params.get("page"));
  return {
    text: params.get("q") ?? "",
    verdict: params.get("verdict") ?? "",
    owner: params.get("owner") ?? "",
    tag: params.get("tag") ?? "",
    sort: Object.hasOwn(SORTS, sort) ? (sort as Sort) : "attention",
    page: Number.isInteger(page) && page > 0 ? page : 1,
  };
};

const URGENCY: Record<Verdict | "none", number> = { retrain: 0, watch: 1, none: 3, healthy: 4 };

/** Whether another version became champion after the last verdict. */
export const replacedSince = ({ champion, monitoring }: Overview): boolean =>
  champion !== null && monitoring !== null && Date.parse(champion.since) > Date.parse(monitoring.checked);

/**
 * A smaller number is more urgent. A pending approval ranks like the verdict retrain. A verdict to which somebody has
 * responded, by an acknowledgement or with another champion, ranks below a new watch.
 */
export const urgency = (model: Overview): number => {
  if (model.approval !== null) return 0;
  const verdict = model.monitoring?.verdict ?? "none";
  const answered = replacedSince(model) || (verdict === "watch" && Boolean(model.monitoring?.acknowledged));
  return answered ? Math.max(2, URGENCY[verdict]) : URGENCY[verdict];
};

export const owners = (model: Overview): string[] =>
  (model.owner ?? "").split(",").map((owner) => owner.trim()).filter(Boolean);

const byName = (one: Overview, other: Overview) => one.name.localeCompare(other.name, "en", { numeric: true });
const ORDER: Record<Sort, (one: Overview, other: Overview) => number> = {
  attention: (one, other) => urgency(one) - urgency(other),
  name: byName,
  champion: (one, other) => (other.champion?.since ?? "").localeCompare(one.champion?.since ?? ""),
  scored: (one, other) => (one.scoring?.scored_at ?? "").localeCompare(other.scoring?.scored_at ?? ""),
};

/** The models that the view asks for, in its order. Models of equal rank are ordered by name. */
export const select = (models: Overview[], view: View): Overview[] => {
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  return models
    .filter((model) => {
      const text = [model.name, model.owner, ...model.tags, model.monitoring?.headline].join(" ").toLowerCase();
      return (
        words.every((word) => text.includes(word)) &&
        (view.verdict === "" || (model.monitoring?.verdict ?? "none") === view.verdict) &&
        (view.owner === "" || owners(model).includes(view.owner)) &&
        (view.tag === "" || model.tags.includes(view.tag))
      );
    })
    .sort((one, other) => ORDER[view.sort](one, other) || byName(one, other));
};

export const choices = (models: Overview[], of: (model: Overview) => string[]): string[] =>
  [...new Set(models.flatMap(of))].sort((one, other) => one.localeCompare(other));
