import numpy as np

from detectors.suggest import suggest


def clusters(rng):
    X = 0.05 * rng.normal(size=(400, 8))
    X[np.arange(400), np.arange(400) % 4] += 1
    return X


def test_half_are_the_strangest_and_half_represent_the_clusters(rng):
    X, score = clusters(rng), rng.normal(size=400)
    found = suggest(8, X, score)
    assert [s.why for s in found] == ["outlier"] * 4 + ["representative"] * 4
    assert {s.row for s in found[:4]} == set(np.argsort(-score)[:4])
    assert {s.row % 4 for s in found[4:]} == {0, 1, 2, 3}
    assert len({s.row for s in found}) == 8


def test_with_verdicts_of_both_kinds_the_doubtful_come_first(rng):
    X = np.zeros((201, 2))
    X[:, 0] = np.linspace(-1, 1, 201)
    labelled = np.r_[0:5, 196:201]
    found = suggest(3, X, np.zeros(201), labelled, labelled > 100)
    assert {s.why for s in found} == {"uncertain"}
    assert {s.row for s in found} == {99, 100, 101}


def test_labelled_samples_are_not_suggested_again(rng):
    X, score = clusters(rng), rng.normal(size=400)
    known = np.argsort(-score)[:3]
    assert not {s.row for s in suggest(20, X, score, known, [True] * 3)} & set(known)


def test_no_more_than_there_are():
    assert [s.row for s in suggest(50, np.eye(3), np.array([1.0, 3, 2]))] == [1, 2, 0]
    assert suggest(5, np.eye(2), np.zeros(2), [0, 1], [True, False]) == []
    assert suggest(5, np.zeros((0, 2)), np.zeros(0)) == []
