import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from detectors.suggest import RIDGE, WEAK_PRIOR, representatives, suggest


def clusters(rng):
    X = 0.05 * rng.normal(size=(400, 8))
    X[np.arange(400), np.arange(400) % 4] += 1
    return X


@contextmanager
def memory():
    """A list that holds the most bytes that Python had at a time, once it is over."""
    peak = []
    tracemalloc.start()
    try:
        yield peak
    finally:
        peak.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()


def test_half_are_the_strangest_and_half_represent_the_other_clusters(rng):
    X, score = clusters(rng), rng.random(400)
    score[[40, 80, 120]] = [4, 3, 2]
    found = suggest(6, X, score)
    assert [s.why for s in found] == ["outlier"] * 3 + ["representative"] * 3
    assert [s.row for s in found[:3]] == [40, 80, 120]
    assert {s.row % 4 for s in found[3:]} == {1, 2, 3}


def test_what_is_labelled_needs_no_representative(rng):
    X = clusters(rng)
    chosen = representatives(X, np.arange(20, 400), 2, labelled=np.array([1, 2]))
    assert {row % 4 for row in chosen} == {0, 3}


def test_representatives_leave_a_ridge_regression_the_least_variance(rng):
    X = rng.normal(size=(30, 5)) * [3, 2, 1, 1, 1]
    rows, labelled = np.arange(4, 30), np.array([0, 2])
    chosen = representatives(X, rows, 3, labelled)
    Z = X - X[rows].mean(axis=0)
    ridge = RIDGE * np.mean(np.sum(Z[rows] ** 2, axis=1))

    def variance(known):
        of, across = Z[known] @ Z[known].T + ridge * np.eye(len(known)), Z[rows] @ Z[known].T
        return np.sum(Z[rows] ** 2) - np.trace(across @ np.linalg.solve(of, across.T))

    known = list(labelled)
    for row in chosen:
        assert variance([*known, row]) == pytest.approx(
            min(variance([*known, other]) for other in rows)
        )
        known.append(row)


def test_representatives_of_many_samples_take_the_memory_of_some(rng):
    X = clusters(rng)[rng.integers(0, 400, 200_000)]
    with memory() as peak:
        chosen = representatives(X, np.arange(200_000), 4, labelled=np.empty(0, dtype=np.int64))
    assert {int(np.argmax(X[row, :4])) for row in chosen} == {0, 1, 2, 3}
    assert peak[0] < X.nbytes


def test_the_doubtful_of_many_samples_take_the_memory_of_some(rng):
    X = clusters(rng)[rng.integers(0, 400, 200_000)]
    known = np.arange(40)
    with memory() as peak:
        found = suggest(4, X, np.zeros(200_000), known, X[known, 0] > 0.5)
    assert {s.why for s in found} == {"uncertain"}
    assert peak[0] < 1.5 * X.nbytes


@pytest.fixture
def line():
    """Samples from an edge case (x = 1) to a normal one (x = -1), and which are labelled so."""
    X = np.zeros((201, 2))
    X[:, 0] = np.linspace(-1, 1, 201)
    return X, np.r_[0:10, 191:201]


def test_with_verdicts_of_both_kinds_the_doubtful_come_first(line):
    X, labelled = line
    found = suggest(3, X, np.zeros(201), labelled, labelled > 100)
    assert {s.why for s in found} == {"uncertain"}
    rows = [s.row for s in found]
    assert rows[0] == 100
    assert all(93 <= row <= 107 for row in rows)


@pytest.mark.parametrize("copies", [slice(97, 104), slice(50, 104)], ids=["7", "54"])
def test_of_the_doubtful_those_that_differ_are_taken(line, copies):
    X, labelled = line
    X[copies] = 0  # one doubtful photograph, several times
    X[104:106] = 0.02, 1
    found = suggest(2, X, np.zeros(201), labelled, labelled > 100)
    assert {tuple(X[s.row]) for s in found} == {(0, 0), (0.02, 1)}
    assert len({s.row for s in suggest(9, X, np.zeros(201), labelled, labelled > 100)}) == 9


@pytest.mark.parametrize("edge_cases", [1, 5, 24])
def test_the_doubtful_are_those_whose_probability_varies_most(rng, edge_cases):
    """By the variance of the log odds given the labels, as a Gaussian process has it."""
    X = rng.normal(size=(80, 5))
    known = np.arange(25)
    label = known < edge_cases
    model = LogisticRegression(C=WEAK_PRIOR, max_iter=1000, class_weight="balanced")
    probability = model.fit(X[known], label).predict_proba(X)[:, 1]
    slope = probability * (1 - probability)
    Z = np.column_stack([X - X[25:].mean(axis=0), np.ones(80)])
    prior = WEAK_PRIOR * Z @ Z.T
    seen = list(known)
    for one in suggest(6, X, np.zeros(80), known, label):
        of = prior[np.ix_(seen, seen)] + np.diag(1 / slope[seen])
        variance = np.diag(prior - prior[:, seen] @ np.linalg.solve(of, prior[seen]))
        deviation = slope * np.sqrt(variance)
        assert deviation[one.row] == pytest.approx(np.delete(deviation, seen).max(), rel=1e-6)
        seen.append(one.row)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_sure_classifier_and_vectors_far_from_the_origin_are_no_trouble(line):
    X, labelled = line
    found = suggest(3, 1000 * X + 5000, np.zeros(201), labelled, labelled > 100)
    assert {s.why for s in found} == {"uncertain"}
    assert all(85 <= s.row <= 115 for s in found)
    beyond = np.where(X < 0, -1e4, 1e4)  # of which the classifier doubts none
    beyond[labelled] = X[labelled]
    found = suggest(9, beyond, np.zeros(201), labelled, labelled > 100)
    assert len({s.row for s in found}) == 9


@pytest.mark.parametrize("labels", [0, 10, 30])
def test_where_the_vectors_lie_as_a_whole_does_not_matter(rng, labels):
    X, score = clusters(rng), rng.random(400)
    known = np.arange(labels)
    there, here = (suggest(12, each, score, known, known % 3 == 0) for each in (X + 2, X))
    assert there == here


def test_only_the_most_doubted_are_candidates(line, monkeypatch):
    X, labelled = line
    X[101:191, 1] = 3  # would tell the most, if all were
    monkeypatch.setattr("detectors.suggest.MOST_CANDIDATES", 10)
    found = suggest(50, X, np.zeros(201), labelled, labelled > 100)
    model = LogisticRegression(C=WEAK_PRIOR, max_iter=1000, class_weight="balanced")
    probability = model.fit(X[labelled], labelled > 100).predict_proba(X)[:, 1]
    left = np.setdiff1d(np.arange(201), labelled)
    most = left[np.argsort(np.abs(probability[left] - 0.5), kind="stable")[:10]]
    assert sorted(s.row for s in found) == sorted(most)


def test_nineteen_verdicts_are_too_few_for_a_doubt(line):
    X, labelled = line
    found = suggest(4, X, X[:, 0], labelled[:-1], labelled[:-1] > 100)
    assert [s.why for s in found] == ["outlier"] * 2 + ["representative"] * 2


@pytest.mark.parametrize("edge_cases", [0, 20])
def test_verdicts_of_one_kind_teach_no_doubt(line, edge_cases):
    X, labelled = line
    found = suggest(4, X, X[:, 0], labelled, np.arange(20) < edge_cases)
    assert [s.why for s in found] == ["outlier"] * 2 + ["representative"] * 2


def test_labelled_samples_are_not_suggested_again(rng):
    X, score = clusters(rng), rng.normal(size=400)
    known = np.argsort(-score)[:3]
    assert not {s.row for s in suggest(20, X, score, known, [True] * 3)} & set(known)


def test_samples_that_are_all_the_same_are_suggested_once_each():
    X = np.ones((60, 3))
    assert len({s.row for s in suggest(10, X, np.zeros(60))}) == 10
    labelled = np.arange(20)
    assert len({s.row for s in suggest(10, X, np.zeros(60), labelled, labelled < 9)}) == 10


def test_no_more_than_there_are():
    assert [s.row for s in suggest(50, np.eye(3), np.array([1.0, 3, 2]))] == [1, 2, 0]
    assert suggest(5, np.eye(2), np.zeros(2), [0, 1], [True, False]) == []
    assert suggest(5, np.zeros((0, 2)), np.zeros(0)) == []
    assert suggest(-1, np.eye(2), np.zeros(2)) == []
    assert [s.row for s in suggest(5, np.eye(2), np.zeros(2), [0], [True])] == [1]
