import { expect, it } from "vitest";

import { metricMeaning, testMeaning } from "./terms";

it("knows metrics with the prefixes and suffixes of intervals and estimates", () => {
  expect(metricMeaning("ece")).toMatch(/^expected calibration error/);
  expect(metricMeaning("uncalibrated_ece")).toBe(metricMeaning("ece"));
  expect(metricMeaning("estimated_roc_auc_low")).toBe(metricMeaning("roc_auc"));
  expect(metricMeaning("expected_cost_fp1_fn20_reference")).toMatch(/^mean cost/);
  expect(metricMeaning("tweedie_deviance_p1.5_low")).toMatch(/^mean Tweedie deviance/);
  expect(metricMeaning("ndcg_k10_by-query_low")).toMatch(/^normalised discounted/);
  expect(metricMeaning("pinball_a0.9_low")).toMatch(/^mean pinball/);
  expect(metricMeaning("quantile_coverage_gap_a0.9_low")).toMatch(/^difference between/);
  expect(metricMeaning("poisson_deviance_high")).toMatch(/^mean Poisson deviance/);
  expect(metricMeaning("interval_coverage_reference")).toMatch(/^share of the labels/);
});

it("explains neither a user's own metric nor a name of JavaScript", () => {
  expect(metricMeaning("my_metrics:ece")).toBeUndefined();
  expect(metricMeaning("constructor")).toBeUndefined();
  expect(testMeaning("constructor")).toBeUndefined();
});

it("explains every projection of embeddings", () => {
  expect(testMeaning("projection 12")).toMatch(/random direction/);
  expect(testMeaning("cucconi")).toMatch(/spread/);
});
