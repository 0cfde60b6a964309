import numpy as np
import pytest
from scipy import stats

from detectors.disagreement import doubt, entropy, loss, margin, none_said
from schemas.errors import UsageError

PREDICTIONS = np.array([[1.0, 0, 0], [0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3], [0.7, 0.2, 0.1]])


def test_entropy_agrees_with_scipy():
    np.testing.assert_allclose(entropy(PREDICTIONS), stats.entropy(PREDICTIONS, axis=1), atol=1e-9)


def test_margin_of_hand_computed_cases():
    np.testing.assert_allclose(margin(PREDICTIONS), [0, 1, 1, 0.5])
    assert margin([[1.0]]).tolist() == [0.0]


def test_loss_is_high_where_the_model_is_sure_and_wrong():
    values = loss(PREDICTIONS[[0, 0, 3]], np.array([0, 1, 1]))
    np.testing.assert_allclose(values[[0, 2]], [0, -np.log(0.2)], atol=1e-9)
    assert values[1] > 20


def test_counts_are_taken_for_shares():
    np.testing.assert_allclose(entropy(7 * PREDICTIONS), entropy(PREDICTIONS))


@pytest.mark.parametrize("bad", [[1.0, 2.0], [[np.nan, 1]], [[-1.0, 2]]])
def test_what_is_no_prediction_is_refused(bad):
    with pytest.raises(ValueError, match="predictions are"):
        entropy(bad)


def test_doubt_is_asked_for_by_name():
    rows = [
        {"prediction": [0.7, 0.3], "label": "0", "uncertainty": 0.9},
        {"prediction": [0.5, 0.5]},
    ]
    np.testing.assert_allclose(doubt(rows, "margin"), [0.6, 1.0])
    np.testing.assert_allclose(
        doubt(rows, "entropy"), stats.entropy([[0.7, 0.3], [0.5, 0.5]], axis=1)
    )
    np.testing.assert_allclose(doubt(rows, "loss"), [-np.log(0.7), np.nan])
    assert doubt(rows[1:], "loss") is None
    assert doubt([{"uncertainty": 0.5}], "margin") is None


@pytest.mark.parametrize(
    "row",
    [
        *({"uncertainty": value} for value in (-0.1, "nan", float("inf"), "high")),
        *({"prediction": [0.2, 0.8], "label": label} for label in (-1, 2, 0.5, "cat", "nan")),
        {"prediction": {"cat": 0.2, "dog": 0.8}, "label": "cow"},
        {"prediction": [0, 0]},
        {"prediction": []},
    ],
)
def test_what_makes_no_sense_says_nothing(row):
    good = {"uncertainty": 0.5} if "uncertainty" in row else {"prediction": [0.9, 0.1]}
    if "label" in row:
        good["label"] = 0
    found = doubt([good, row])
    assert np.isnan(found).tolist() == [False, True]


def test_whole_numbers_may_be_written_as_a_table_with_gaps_gives_them():
    rows = [{"prediction": [0.2, 0.8], "label": label} for label in (1.0, "1.0", "1")]
    np.testing.assert_allclose(doubt(rows), -np.log([0.8] * 3))
    named = [{**row, "prediction": {"0": 0.2, "1": 0.8}} for row in rows]
    np.testing.assert_allclose(doubt(named), -np.log([0.8] * 3))


def test_doubt_is_read_from_metadata():
    assert doubt([{"uncertainty": 0.25}, {"uncertainty": "0.5"}, {}])[:2].tolist() == [0.25, 0.5]
    of_shares = doubt([{"prediction": [0.5, 0.5]}, {"prediction": '{"a": 1, "b": 0}'}, {"x": 1}])
    np.testing.assert_allclose(of_shares, [np.log(2), 0, np.nan], atol=1e-9)
    named = {"prediction": {"cat": 0.2, "dog": 0.8}, "label": "cat"}
    placed = {"prediction": [0.2, 0.8], "label": 1}
    np.testing.assert_allclose(doubt([named, placed]), -np.log([0.2, 0.8]))
    assert doubt([{}, {"prediction": "none"}, {"uncertainty": "high"}]) is None
    assert doubt([]) is None
    assert none_said([{}, {"x": 1}]).endswith("no sample has a usable one")
    logits = [{}, {"prediction": [-1.5, 4.0]}, {"prediction": [-2, 3]}]
    assert doubt(logits) is None
    assert none_said(logits).endswith("a usable one: the first says prediction [-1.5, 4.0]")
    with pytest.raises(UsageError, match="prediction and as uncertainty, which do not compare"):
        doubt([{"uncertainty": 0.1}, {"prediction": [0.5, 0.5]}])
