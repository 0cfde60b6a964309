import numpy as np

from detectors import feedback
from detectors.feedback import rerank
from detectors.scores import share_below


def test_a_verdict_speaks_for_its_surroundings_only(rng):
    score = rng.normal(size=300)
    X = 0.1 * rng.normal(size=(300, 16))
    X[:100, 0] += 1
    X[100:200, 1] += 1
    X[200:, 2] += 1
    after = rerank(score, X, X[:1], ["normal"])
    change = after - share_below(score)
    assert change[:100].max() < -0.05
    assert np.abs(change[100:]).max() < 0.01
    assert rerank(score, X, X[:1], ["edge_case"])[0] == 1 + share_below(score)[0]


def test_a_duplicate_says_nothing_of_its_surroundings(rng):
    score, X = rng.normal(size=50), rng.normal(size=(50, 4))
    labels = ["edge_case", "duplicate", "duplicate"]
    np.testing.assert_allclose(rerank(score, X, X[:3], labels), rerank(score, X, X[:1], labels[:1]))


def test_many_samples_and_verdicts_are_held_against_each_other_as_few_are(rng, monkeypatch):
    score, X = rng.normal(size=200), rng.normal(size=(200, 4))
    labels = ["edge_case", "normal", "duplicate", "junk"] * 10
    whole = rerank(score, X, X[:40], labels)
    monkeypatch.setattr(feedback, "BLOCK", 70)
    np.testing.assert_allclose(rerank(score, X, X[:40], labels), whole)


def test_without_verdicts_the_prior_rank_stands():
    score = np.array([3.0, 1.0, 2.0])
    none = np.zeros((0, 2))
    np.testing.assert_allclose(rerank(score, np.eye(3)[:, :2], none, []), [5 / 6, 1 / 6, 0.5])


def test_the_kernel_of_a_hand_computed_case():
    X = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    after = rerank(np.zeros(4), X, X[:1], ["edge_case"])
    np.testing.assert_allclose(after - 0.5, np.exp(np.array([0, -1, -2, -1]) / 0.15))


def test_constant_vectors_say_nothing_wild():
    after = rerank(np.arange(3.0), np.ones((3, 2)), np.ones((1, 2)), ["edge_case"])
    assert np.isfinite(after).all()
    assert np.argsort(after).tolist() == [0, 1, 2]


def test_where_nothing_is_left_nothing_is_ranked():
    nothing = rerank(np.zeros(0), np.zeros((0, 2)), np.ones((1, 2)), ["edge_case"])
    assert nothing.shape == (0,)
