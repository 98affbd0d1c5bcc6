/** The meaning of the recorded names of metrics and drift tests, in one clause each. */

const METRICS: Record<string, string> = {
  attribution_drift: "share of the importance (mean absolute attributions) that moved between features since the first window of the version",
  average_precision: "area under the precision-recall curve; 1 is perfect",
  balanced_accuracy: "mean recall of the classes",
  bias: "mean of prediction minus label",
  brier: "Brier score: mean squared error of the probabilities; lower is better",
  coverage: "share of the predictions that have a label",
  ece: "expected calibration error: mean difference between predicted probability and share of positive rows, over ten bins; lower is better",
  expected_cost: "mean cost of a row; the name contains the costs of a false positive (fp) and a false negative (fn); lower is better",
  f1: "harmonic mean of precision and recall",
  f1_macro: "mean of the F1 scores of the classes",
  feature_drift: "effect size of the most drifted feature, as a share of rows",
  gamma_deviance: "mean gamma deviance, an error for positive amounts, relative to their size; lower is better",
  interval_coverage: "share of the labels that lie in their prediction interval",
  interval_width: "mean width of the prediction intervals, in the unit of the label; lower is better",
  label_drift: "effect size of the drift of the labels, as a share of rows",
  log_loss: "mean of -log(probability of the true class); lower is better",
  mae: "mean absolute error; lower is better",
  mase: "mean absolute error of a forecast, relative to that of the seasonal-naive forecast; lower is better",
  multivariate_drift: "effect size of the drift of all features together (PCA reconstruction error), as a share of rows",
  ndcg: "normalised discounted cumulative gain: how well the first k rows of each group are ordered; the name contains k and the group; 1 is perfect",
  pinball: "mean pinball loss of a predicted quantile, whose share (a) is in the name; lower is better",
  poisson_deviance: "mean Poisson deviance, an error for counts, relative to their size; lower is better",
  prediction_drift: "effect size of the drift of the scores, as a share of rows",
  quantile_coverage_gap:
    "difference between the nominal share (a, in the name) and the share of labels that are at most the predicted quantile; lower is better",
  r2: "R²: share of the labels' variance that the model explains",
  rmse: "root mean squared error; lower is better",
  roc_auc: "area under the ROC curve: probability that a positive row has a higher score than a negative one; 0.5 is chance",
  roc_auc_ovr: "mean area under the ROC curves of each class against the rest; 0.5 is chance",
  smape: "symmetric mean absolute percentage error of a forecast, as a share from 0 to 2; lower is better",
  tweedie_deviance: "mean Tweedie deviance, an error for amounts that are often 0; the name contains the power (p); lower is better",
};

/** The part of a recorded name, such as `estimated_roc_auc_low` or `expected_cost_fp1_fn20`, that names the metric. */
const base = (name: string): string =>
  name.replace(/^(estimated|uncalibrated|in_sample)_/, "").replace(/(_(low|high|reference)|(?<=^expected_cost)_fp.*|(?<=^tweedie_deviance)_p.*|(?<=^ndcg)_k.*|(?<=^pinball|^quantile_coverage_gap)_a.*)$/, "");

/** The meaning of a metric's name; undefined if the name speaks for itself or is a user's own. */
export const metricMeaning = (name: string): string | undefined => {
  const found = base(name);
  return Object.hasOwn(METRICS, found) ? METRICS[found] : undefined;
};

const TESTS: Record<string, string> = {
  chi_square: "Chi-square test: have the shares of the values changed?",
  cucconi: "Cucconi test: has the level or the spread of the values changed?",
  hour: "Chi-square test: have the shares of the hours of the day changed?",
  ks: "Kolmogorov-Smirnov test: do the two distributions differ anywhere?",
  missing: "Missing values: has the share of rows without a usable value changed?",
  ndcg: "Permutation test: has the order of the features by their attributions changed?",
  norm: "Kolmogorov-Smirnov test of the lengths of the embeddings",
  projection: "Kolmogorov-Smirnov test of the embeddings along a random direction",
  unseen: "Unseen values: has the share of rows with values that do not occur in the reference changed?",
  weekday: "Chi-square test: have the shares of the weekdays changed?",
  words: "Words: has the share of rows that contain a word changed?",
};

/** The meaning of the test that decides whether a column has drifted; undefined if the test is unknown. */
export const testMeaning = (test: string): string | undefined => {
  const [found = ""] = test.split(" ");
  return Object.hasOwn(TESTS, found) ? TESTS[found] : undefined;
};
