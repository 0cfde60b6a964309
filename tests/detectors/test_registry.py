import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from detectors import registry
from detectors.baseline import fit_pool, fit_reference
from detectors.disagreement import DOUBTS
from detectors.findings import Budget, Policy
from detectors.mining import mine
from detectors.pool import Patches
from schemas.errors import UsageError


@pytest.mark.parametrize("name", ["combined", "knn", "mahalanobis", "lof", "levels"])
def test_a_lone_oddity_comes_first(name, ordinary):
    pool = ordinary(200, odd=1)
    assert np.argmax(registry.detector(name)(pool, fit_pool(pool))) == 0


OF_VECTORS = [n for n in registry.DETECTORS if n not in (*DOUBTS, "patch")]


@pytest.mark.parametrize("name", OF_VECTORS)
@pytest.mark.parametrize("n", [1, 2, 6])
def test_every_detector_is_sane_on_few_samples(name, n, ordinary):
    pool = ordinary(n)
    scores = registry.detector(name)(pool, fit_pool(pool))
    assert scores.shape == (n,)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", OF_VECTORS)
def test_equal_samples_are_equally_ordinary(name, ordinary, pool_of):
    pool = pool_of(*(X[[0] * 40] for X in ordinary(3).embeddings.values()))
    findings = mine(pool, Policy(detector=name))
    assert findings.score.tolist() == [0.0] * 40
    assert len(findings.flagged) == 0


@pytest.mark.parametrize("name", OF_VECTORS)
def test_copies_of_ordinary_samples_are_not_strange(name, ordinary, pool_of):
    rows = [*range(200), *range(1, 41), *range(1, 41)]
    pool = pool_of(*(X[rows] for X in ordinary(200, odd=1).embeddings.values()))
    score = mine(pool, Policy(detector=name)).score
    assert np.isfinite(score).all()
    assert np.argmax(score) == 0
    assert np.median(score[200:]) < 1


@pytest.mark.parametrize("name", OF_VECTORS)
def test_every_detector_refuses_what_is_not_finite(name, ordinary):
    pool = ordinary(50)
    high = pool.embeddings["high"].copy()
    high[7, 0] = np.nan
    with pytest.raises(ValueError, match="row 7"):
        mine(replace(pool, embeddings={**pool.embeddings, "high": high}), Policy(detector=name))


@pytest.mark.parametrize("name", OF_VECTORS)
def test_a_pool_of_nothing_but_outliers_is_ranked_to_the_budget(name, ordinary):
    findings = mine(ordinary(60, wild=60), Policy(Budget(count=5), detector=name))
    assert np.isfinite(findings.score).all()
    assert findings.kinds.count("outlier") == 5


def test_lof_is_that_of_its_definition(ordinary):
    pool = ordinary(60, odd=2)
    gaps = cdist(pool.embeddings["high"], pool.embeddings["high"])
    near = np.argsort(gaps, axis=1)[:, 1:21]
    reach = np.sort(gaps, axis=1)[:, 20]  # how far the 20th neighbour of each is
    within = np.maximum(np.take_along_axis(gaps, near, axis=1), reach[near])
    density = 1 / within.mean(axis=1)
    expected = density[near].mean(axis=1) / density
    np.testing.assert_allclose(registry.lof(pool, fit_pool(pool)), expected, rtol=1e-5)


def test_levels_are_averaged(ordinary):
    pool = ordinary(200)
    findings = mine(pool, Policy(detector="levels"))
    expected = (findings.z["low"] + findings.z["mid"] + findings.z["high"]) / 3
    np.testing.assert_allclose(registry.levels(pool, fit_pool(pool)), expected)


def test_the_doubt_of_a_users_model_is_a_detector(ordinary):
    pool = replace(ordinary(50), uncertainty=np.r_[np.linspace(0, 1, 49), np.nan])
    findings = mine(pool, Policy(Budget(count=2), detector="uncertainty"))
    assert findings.flagged[:2].tolist() == [48, 47]
    said = "1 of 50 samples say nothing usable of a model's doubt, and count as sure"
    assert findings.notes == [said]
    for name in DOUBTS:
        assert mine(pool, Policy(Budget(count=2), detector=name)).flagged[0] == 48
        with pytest.raises(UsageError, match="doubt of a model needs a number 'uncertainty'"):
            mine(ordinary(50), Policy(detector=name))


@pytest.mark.parametrize("name", [*DOUBTS, "module:numpy:nanmin"])
def test_where_a_reference_holds_every_sample_nothing_is_asked_of_a_detector(name, ordinary):
    reference = ordinary(50)
    findings = mine(ordinary(0, near=reference), Policy(detector=name), fit_reference(reference))
    assert (findings.score.shape, len(findings.flagged)) == ((0,), 0)


def test_the_strangest_spot_is_a_detector(ordinary):
    unknown = np.full(50, np.nan)
    scores = np.r_[np.linspace(0.1, 0.5, 49), np.nan]
    pool = replace(ordinary(50), patches=Patches(scores, x=np.full(50, 0.25), y=np.full(50, 0.5)))
    findings = mine(pool, Policy(Budget(count=2), detector="patch"))
    assert findings.flagged[:2].tolist() == [48, 47]
    assert any(r.startswith("spot at 25% across, 50% down is 0.50") for r in findings.reasons[0])
    assert findings.notes == ["1 of 50 samples have no patch score"]
    nothing = replace(pool, patches=Patches(unknown, unknown, unknown))
    for without in (nothing, ordinary(50)):
        with pytest.raises(UsageError, match="'patch' needs patch scores"):
            mine(without, Policy(detector="patch"))


def test_the_default_score_hears_the_strangest_spot_where_it_is_known(ordinary):
    pool, reference = ordinary(200), ordinary(300)
    plain = mine(pool, Policy()).score
    place = np.full(200, 0.5)
    usual = Patches(np.linspace(0.2, 0.3, 200), x=place, y=place)
    spot = replace(usual, score=np.r_[0.9, usual.score[1:]])
    assert np.argmax(mine(replace(pool, patches=spot), Policy()).score) == 0
    unknown = Patches(np.full(200, np.nan), x=place, y=place)
    np.testing.assert_array_equal(mine(replace(pool, patches=unknown), Policy()).score, plain)

    scored = Patches(np.linspace(0.2, 0.3, 300), x=np.full(300, 0.5), y=np.full(300, 0.5))
    baseline = fit_reference(replace(reference, patches=scored))
    fresh = ordinary(200, near=reference)
    findings = mine(replace(fresh, patches=spot), Policy(), baseline)
    assert np.argmax(findings.score) == 0
    assert findings.p_value[0] == pytest.approx(1 / 301)
    with pytest.raises(UsageError, match="set 'patches: true', or fit it again"):
        mine(fresh, Policy(), baseline)


def test_any_pyod_detector_is_found_by_name(ordinary):
    findings = mine(ordinary(200, odd=1), Policy(Budget(count=3), detector="pyod:KNN"))
    assert findings.flagged[0] == 0


def from_the_median(pool, baseline):
    X = pool.embeddings[baseline.level]
    return np.linalg.norm(X - np.median(X, axis=0), axis=1)


def broken(pool, baseline):
    return np.full(len(pool) + 1, np.nan)


def test_a_users_function_is_found_by_its_module(ordinary, monkeypatch):
    theirs = types.ModuleType("theirs")
    theirs.from_the_median, theirs.broken, theirs.number = from_the_median, broken, 3
    monkeypatch.setitem(sys.modules, "theirs", theirs)
    pool = ordinary(200, odd=1)
    findings = mine(pool, Policy(Budget(count=3), detector="module:theirs:from_the_median"))
    assert findings.flagged[0] == 0
    with pytest.raises(UsageError, match="must give 200 finite scores"):
        mine(pool, Policy(detector="module:theirs:broken"))
    with pytest.raises(UsageError, match="is a int, not a function"):
        registry.detector("module:theirs:number")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = = 1", r"cannot be imported: SyntaxError: invalid syntax \(.*line 1\)$"),
        ("raise RuntimeError('first\\nsecond')", "cannot be imported: RuntimeError: first second$"),
        (
            "import no_such_library",
            "cannot be imported: ModuleNotFoundError: .* 'no_such_library'$",
        ),
        ("", "cannot be imported: AttributeError: .* no attribute 'f'$"),
        ("def f(pool): pass", r"failed: TypeError: f\(\) takes 1 positional"),
        ("def f(pool, baseline): raise KeyError('mine')", "failed: KeyError: 'mine'$"),
        (
            "def f(pool, baseline): return ['a'] * len(pool)",
            "gives no numbers: ValueError: .* 'a'$",
        ),
        ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3$"),
        ("def f(pool, baseline): exit('enough')", "failed: SystemExit: enough$"),
        (
            "def f(pool, baseline): pool.embeddings['high'] -= 1",
            "failed: ValueError: .* read-only$",
        ),
        ("def f(pool, baseline): pool.patches.score[0] = 1", "failed: ValueError: .* read-only$"),
        ("def f(pool, baseline): pool.distances.sort()", "failed: ValueError: .* read-only$"),
        ("def f(pool, baseline): baseline.z['low'][:] = 9", "failed: ValueError: .* read-only$"),
        (
            "def f(pool, baseline): baseline.gaussians['low'].mean[0] = 9",
            "failed: ValueError: .* read-only$",
        ),
        ("def f(pool, baseline): return [1.0]", "must give 6 finite scores, not "),
    ],
)
def test_a_mistake_in_a_users_module_names_the_detector(
    content, message, ordinary, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_module", raising=False)
    (tmp_path / "their_module.py").write_text(content)
    pool = replace(ordinary(6), patches=Patches(*np.ones((3, 6))))
    with pytest.raises(UsageError, match=f"^detector 'module:their_module:f' {message}"):
        registry.detector("module:their_module:f")(pool, fit_pool(pool))


def test_a_module_that_is_not_found_hints_at_the_path():
    with pytest.raises(UsageError, match=r"named 'no_such'; put the folder .* on PYTHONPATH"):
        registry.detector("module:no_such.module:f")


@pytest.mark.parametrize(
    "name", ["iforest", "", "module:", "module:no_such_module:f", "pyod:NoSuch", "knn:5"]
)
def test_another_name_is_an_error_that_shows_it(name):
    with pytest.raises(UsageError, match=f"detector '{name}'"):
        registry.detector(name)


def test_lof_and_pca_on_a_line_with_one_point_beside_it(ordinary):
    line = np.zeros((101, 3), np.float32)
    line[:, 0] = np.linspace(-1, 1, 101)
    line[50, 1] = 0.3
    pool = ordinary(101)
    pool = replace(pool, embeddings={**pool.embeddings, "high": line})
    residual = registry.pca(pool, fit_pool(pool))
    mean = 0.3 / 101
    np.testing.assert_allclose(np.delete(residual, 50), mean, rtol=1e-3)
    assert residual[50] == pytest.approx(0.3 - mean, rel=1e-3)
    assert np.argmax(registry.lof(pool, fit_pool(pool))) == 50


def test_lof_is_sane_among_more_copies_than_neighbours(ordinary):
    pool = ordinary(200, odd=1)
    pool.embeddings["high"][100:160] = pool.embeddings["high"][100]
    scores = registry.lof(pool, fit_pool(pool))
    assert np.argmax(scores) == 0
    assert scores.max() < 10
    assert len(set(scores[100:160])) == 1


def test_pyod_detectors_give_the_same_scores_every_time(ordinary):
    pool = ordinary(200)
    first, second = (mine(pool, Policy(Budget(count=3), detector="pyod:IForest")) for _ in range(2))
    np.testing.assert_array_equal(first.score, second.score)


def test_a_pyod_detector_is_found_whatever_its_module_is_called(ordinary):
    """Its module is auto_encoder."""
    findings = mine(ordinary(100, wild=1), Policy(Budget(count=1), detector="pyod:AutoEncoder"))
    assert findings.flagged.tolist() == [99]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pyod:LSCP", "cannot be used"),
        ("pyod:NoSuchThing", "no module of this name"),
        ("pyod:", "names no class"),
        ("pyod:iforest", "has no class 'iforest'; did you mean 'pyod:IForest'"),
    ],
)
def test_a_pyod_detector_that_does_not_work_says_so(name, message, ordinary):
    with pytest.raises(UsageError, match=f"'{name}'.* {message}"):
        mine(ordinary(50), Policy(Budget(count=3), detector=name))


@pytest.mark.parametrize("name", ["lof", "pca", "pyod:KNN"])
def test_what_compares_a_pool_with_itself_is_refused_against_a_reference(name, ordinary):
    reference = ordinary(100)
    with pytest.raises(UsageError, match=f"detector '{name}' compares a pool with itself"):
        mine(ordinary(20, near=reference), Policy(detector=name), fit_reference(reference))


@pytest.mark.parametrize("name", registry.AGAINST_REFERENCE)
def test_against_a_reference_there_are_p_values(name, ordinary):
    reference = ordinary(300)
    pool = ordinary(100, odd=3, near=reference)
    findings = mine(pool, Policy(detector=name), fit_reference(reference))
    assert findings.p_value[:3].max() < 0.02
    assert 0.3 < np.median(findings.p_value[3:]) < 0.7
