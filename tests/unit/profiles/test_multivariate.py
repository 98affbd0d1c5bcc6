"""Changed relations between features are found while their distributions stay, and false alarms are rare."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from airflow_mlops.drift import univariate as drift
from airflow_mlops.drift.findings import Drift
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.multivariate import ERROR, Reconstruction, ReconstructionErrors, learn
from airflow_mlops.profiles.profile import Profile, profile

POLICY = Policy()


def rows(count: int, seed: int, together: float = 0.8, **replaced) -> pa.Table:
    """Six numbers, two of them correlated, and a carrier that depends on a third; each column on its own has the
    same distribution for every ``together``."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, 6))
    values[:, 1] = together * values[:, 0] + np.sqrt(1 - together**2) * values[:, 1]
    hidden = together * values[:, 2] + np.sqrt(1 - together**2) * random.normal(size=count)
    carrier = np.array(["AA", "B6", "UA"], dtype=object)[np.digitize(hidden, [-0.6, 1.0])]
    columns = {**{f"x{index}": values[:, index] for index in range(6)}, "carrier": carrier, **replaced}
    return pa.table(columns)


def learned(training: pa.Table, held_out: pa.Table) -> tuple[Profile, Reconstruction]:
    features = profile(training.to_batches())
    found = learn(training.to_batches(), features.columns, held_out.to_batches())
    assert found is not None
    # Through JSON, as stored with the model.
    return features, Reconstruction.model_validate_json(found.model_dump_json())


def errors(of: Reconstruction, data: pa.Table, batch_rows: int = 1_000) -> ReconstructionErrors:
    counted = ReconstructionErrors(of)
    for _ in counted.count(data.to_batches(batch_rows)):
        pass
    return counted


def judged(features: Profile, of: Reconstruction, data: pa.Table) -> list[Drift]:
    """The drift of every column, and of the reconstruction error as the last item."""
    counted = ReconstructionErrors(of)
    current = profile(counted.count(data.to_batches(1_000)))
    parts = (Profile(rows=part.rows, columns={ERROR: part}) for part in (of.errors, counted.result()))
    return drift.decide([*drift.measure(features, current, POLICY), *drift.measure(*parts, POLICY)], POLICY)


def test_a_lost_correlation_is_found_while_no_column_has_drifted():
    features, of = learned(rows(8_000, 1), rows(2_000, 2))
    *columns, together = judged(features, of, rows(2_000, 3, together=0.0))
    assert not any(item.drifted for item in columns)
    assert together.drifted
    assert together.effect > 0.05
    *columns, together = judged(features, of, rows(2_000, 5))
    assert not any(item.drifted for item in [*columns, together])


def test_the_false_alarm_rate_holds():
    found = []
    for window in range(40):
        features, of = learned(rows(1_000, 3 * window), rows(400, 3 * window + 1))
        found.append(judged(features, of, rows(int(np.random.default_rng(window).integers(50, 1_500)), 3 * window + 2)))
    alarms = sum(any(item.drifted for item in item) for item in found)
    assert stats.binom.sf(alarms - 1, len(found), 0.05) > 1e-3
    # The false-alarm rate of the reconstruction error alone is at most the stated rate, too.
    small = sum(columns[-1].p_value <= 0.05 for columns in found)
    assert stats.binom.sf(small - 1, len(found), 0.05) > 1e-3


def test_rows_to_which_components_were_fitted_have_smaller_errors():
    # This is why the held-out part is the reference. The effect is largest with few rows and many columns.
    random = np.random.default_rng(0)
    training, other = (pa.table({f"x{n}": random.normal(size=60) for n in range(40)}) for _ in range(2))
    _, of = learned(training, other)
    assert errors(of, training).result().mean < 0.9 * of.errors.mean
    assert of.errors.mean == errors(of, other).result().mean


@given(st.integers(1, 700), st.integers(0, 50))
@settings(deadline=None, max_examples=15)
def test_results_do_not_depend_on_batches(batch_rows, seed):
    training, held_out = rows(700, seed), rows(100, seed + 1)
    features = profile(training.to_batches())
    one = learn(training.to_batches(), features.columns, held_out.to_batches())
    many = learn(training.to_batches(batch_rows), features.columns, held_out.to_batches(batch_rows))
    # The sign of a direction is arbitrary.
    np.testing.assert_allclose(np.abs(one.left_out), np.abs(many.left_out), atol=1e-6)
    assert many.variance == pytest.approx(one.variance)
    assert errors(one, held_out, batch_rows).result() == errors(one, held_out).result()


def test_errors_are_those_of_scikit_learns_components():
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    training, held_out = (rows(3_000, seed).drop_columns("carrier") for seed in (1, 2))
    _, of = learned(training, held_out)
    scaler = StandardScaler().fit(training.to_pandas())
    pca = PCA(0.65).fit(scaler.transform(training.to_pandas()))
    assert len(of.left_out) == 6 - pca.n_components_
    assert of.variance == pytest.approx(pca.explained_variance_ratio_.sum())
    values = scaler.transform(held_out.to_pandas())
    far = np.linalg.norm(values - pca.inverse_transform(pca.transform(values)), axis=1)
    # StandardScaler uses the population standard deviation.
    assert of.errors.mean == pytest.approx(far.mean(), rel=1e-3)
    assert of.errors.max == pytest.approx(far.max(), rel=1e-3)


def test_encodings_have_mean_zero_and_standard_deviation_one():
    random = np.random.default_rng(0)
    data = pa.table(
        {
            "x": pa.array(random.normal(50, 9, 4_000), mask=random.random(4_000) < 0.2),
            "carrier": random.choice(np.array(["AA", "B6", None], dtype=object), 4_000, p=[0.5, 0.2, 0.3]),
            "tail": [f"N{number}" for number in random.zipf(1.5, 4_000) % 400],
            "weekend": random.random(4_000) < 0.3,
        }
    )
    _, of = learned(data, data)
    number, *categories = [column.encoded(data[column.name].combine_chunks()) for column in of.columns]
    assert number.mean() == pytest.approx(0, abs=1e-9)
    assert (number == 0).sum() == data["x"].null_count
    for values in categories:
        assert (values.mean(), values.std()) == pytest.approx((0, 1), abs=1e-9)
    missing = categories[0][data["carrier"].combine_chunks().is_null()]
    assert np.unique(missing) == pytest.approx(
        (data["carrier"].null_count / 4_000 - of.columns[1].mean) / of.columns[1].std
    )


def test_missing_infinite_and_extreme_values_have_finite_errors():
    _, of = learned(rows(2_000, 1), rows(500, 2))
    odd = rows(
        5, 3,
        x0=pa.array([None, float("nan"), float("inf"), -1e308, 1e308]),
        carrier=pa.array([None, "never seen", None, "AA", "AA"]),
    )  # fmt: skip
    found = errors(of, odd).result()
    assert (found.valid, found.rows) == (5, 5)
    json.dumps(found.model_dump(mode="json"), allow_nan=False)
    empty = pa.table(
        {name: pa.nulls(5, pa.float64() if name != "carrier" else pa.string()) for name in odd.column_names}
    )
    assert errors(of, empty).result().valid == 5


def test_values_missing_together_are_a_relation():
    def gaps(seed: int, both: bool) -> pa.Table:
        random = np.random.default_rng(seed)
        lost = random.random((2, 4_000)) < 0.3
        if both:
            lost[1] = lost[0]
        texts = [np.where(mask, None, random.choice(["a", "b"], 4_000)) for mask in lost]
        return pa.table({"s": pa.array(texts[0]), "t": pa.array(texts[1])})

    features, of = learned(gaps(1, True), gaps(2, True))
    *columns, together = judged(features, of, gaps(3, False))
    assert not any(item.drifted for item in columns)
    assert together.drifted


def test_equivalent_column_types_have_equal_errors():
    data = rows(300, 3, weekend=np.arange(300) % 3 == 0)
    _, of = learned(rows(2_000, 1, weekend=np.arange(2_000) % 3 == 0), data)
    carrier = data.schema.get_field_index("carrier")
    other = data.set_column(carrier, "carrier", data["carrier"].dictionary_encode())
    assert errors(of, other).result() == errors(of, data).result() == of.errors


def test_missing_columns_and_other_kinds_are_named():
    _, of = learned(rows(500, 1), rows(100, 2))
    assert errors(of, rows(10, 3).drop_columns("x3")).mismatch == "column 'x3' is absent"
    assert errors(of, rows(10, 3, x3=["a"] * 10)).mismatch == "column 'x3' was numeric at training and is string now"
    assert errors(of, rows(10, 3)).mismatch is None


@pytest.mark.parametrize(
    "columns",
    [{"x": [1.0, 2.0, 3.0]}, {"x": [1.0, 2.0, 3.0], "same": [5, 5, 5]}, {"x": [1.0, 2.0, 3.0], "id": ["a", "b", "c"]}],
    ids=["one", "constant", "all different"],
)
def test_fewer_than_two_varying_features_give_no_reconstruction(columns):
    data = pa.table(columns)
    assert learn(data.to_batches(), profile(data.to_batches()).columns, data.to_batches()) is None


def test_without_held_out_rows_there_is_no_reconstruction():
    data = rows(100, 1)
    features = profile(data.to_batches()).columns
    assert learn(data.to_batches(), features, []) is None


def test_rounding_errors_of_identical_columns_do_not_drift():
    def twice(seed: int) -> pa.Table:
        x = np.random.default_rng(seed).normal(size=1_000)
        return pa.table({"x": x, "y": 3 * x + 1e6})

    features, of = learned(twice(1), twice(2))
    assert of.errors.max == 0
    assert not judged(features, of, twice(3))[-1].drifted
    assert judged(features, of, pa.table({"x": twice(3)["x"], "y": twice(4)["y"]}))[-1].drifted


def test_the_number_of_columns_is_limited():
    random = np.random.default_rng(0)
    data = pa.table({f"x{n}": random.normal(size=300) for n in range(120)})
    _, of = learned(data, data)
    assert [column.name for column in of.columns] == [f"x{n}" for n in range(100)]
