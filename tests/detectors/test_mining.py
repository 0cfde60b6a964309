from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from detectors.baseline import fit_reference
from detectors.findings import Budget, Policy, Reviews
from detectors.mining import mine
from detectors.pool import Pool
from schemas.errors import UsageError
from schemas.records import LEVELS


def pool_of(low, mid, high, k=100, source="line-3", **quality):
    """A pool with exact neighbours on the high level."""
    n = len(high)
    gaps = cdist(high, high)
    np.fill_diagonal(gaps, np.inf)
    near = np.argsort(gaps, axis=1)[:, : min(k, max(n - 1, 0))]
    return Pool(
        sample_ids=[f"{i:064x}" for i in range(n)],
        sources=[source] * n,
        embeddings=dict(zip(LEVELS, (low, mid, high), strict=True)),
        quality=quality,
        distances=np.take_along_axis(gaps, near, axis=1).astype(np.float32),
        neighbours=near,
    )


def unit(X):
    return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def levels(rng):
    """600 ordinary samples at three levels of 6, 12 and 24 dimensions."""
    return [unit(np.eye(d)[0] + 0.1 * rng.normal(size=(600, d))) for d in (6, 12, 24)]


def displaced(vectors, rows, axis, by=2.0):
    """The rows moved along one axis: unit norm again, and alike in their strangeness."""
    moved = vectors.copy()
    moved[rows, axis] += by
    return unit(moved)


def test_finds_single_outliers_and_a_group_of_alike_ones(levels, rng):
    low, mid, high = levels
    single, group = np.arange(5), np.arange(5, 25)
    high = high.copy()
    high[single] = unit(rng.normal(size=(5, 24)))
    mid, high = displaced(mid, group, axis=3), displaced(high, group, axis=3)
    findings = mine(pool_of(low, mid, high), Policy(budget=Budget(count=50)))
    assert set(findings.flagged) >= set(range(25))
    assert findings.kinds == ["outlier"] * 50


@pytest.mark.parametrize(("n", "size"), [(90, 3), (600, 3), (600, 25), (600, 55)])
def test_near_copies_of_one_strange_image_are_found_whatever_their_number(n, size, levels, rng):
    low, mid, high = (level[:n].copy() for level in levels)
    for level in (mid, high):
        strange = -level.mean(axis=0)
        level[:size] = unit(strange + 0.02 * rng.normal(size=(size, len(strange))))
    findings = mine(pool_of(low, mid, high), Policy(budget=Budget(count=size + 3)))
    assert set(findings.flagged[: size + 3]) >= set(range(size))
    told = dict(zip(findings.flagged.tolist(), findings.reasons, strict=True))
    assert size < 55 or all(
        told[row][0].endswith("alone or with others like it") for row in range(size)
    )


def test_flags_come_best_first_and_scores_count_robust_deviations(levels):
    low, mid, high = levels
    policy = Policy(budget=Budget(share=0.02))
    findings = mine(pool_of(low, mid, displaced(high, [7], 3)), policy)
    assert findings.flagged[0] == 7
    assert len(findings.flagged) == 12
    assert findings.score[7] == findings.score.max() > 3.5
    assert (np.diff(findings.score[findings.flagged]) <= 0).all()
    assert abs(np.median(findings.score)) < 0.2


def test_no_more_neighbours_are_told_than_there_are(levels):
    low, mid, high = levels
    pool = pool_of(low, mid, displaced(high, [7], 3), k=1000)
    findings = mine(pool, Policy(budget=Budget(count=1), neighbours=1000))
    assert any(reason.startswith("599 nearest images ") for reason in findings.reasons[0])


def test_a_level_that_the_encoder_lacks_is_no_ones_strangest(levels):
    absent, high = np.zeros((300, 1), np.float32), levels[2]
    reference, pool = (pool_of(absent, absent, some) for some in (high[:300], high[300:]))
    for baseline in (None, fit_reference(replace(reference, neighbours=None))):
        assert set(mine(pool, Policy(), baseline).level) == {"high"}


def test_a_capture_fault_stands_beside_the_budget(levels):
    low, mid, high = levels
    faults = [100, 101]
    low, mid = displaced(low, faults, 2), displaced(mid, faults, 2)
    high = displaced(high, [7, 8], 3)
    findings = mine(pool_of(low, mid, high), Policy(budget=Budget(count=2)))
    assert set(findings.flagged[:2]) == {7, 8}
    assert set(findings.flagged[2:]) == set(faults)
    assert findings.kinds == ["outlier"] * 2 + ["capture_fault"] * 2
    assert findings.level[7] == "high"
    assert findings.level[100] in ("low", "mid")
    assert "may be a capture fault" in " ".join(findings.reasons[2])


def test_another_detectors_score_is_a_reason_of_what_it_flagged_alone(levels):
    low, mid, high = levels
    low, mid = displaced(low, [100, 101], 2), displaced(mid, [100, 101], 2)
    high = displaced(high, [7, 8], 3)
    policy = Policy(budget=Budget(count=2), detector="knn")
    findings = mine(pool_of(low, mid, high), policy)
    assert findings.kinds == ["outlier"] * 2 + ["capture_fault"] * 2
    named = [any("knn score" in reason for reason in why) for why in findings.reasons]
    assert named == [True, True, False, False]


def test_what_is_strange_in_its_contents_alone_is_no_capture_fault(levels):
    low, mid, high = levels
    strange = [100, 101]
    mid, high = displaced(mid, strange, 2, by=5.0), displaced(high, strange, 2, by=5.0)
    high = displaced(high, [7, 8], 3, by=9.0)
    findings = mine(pool_of(low, mid, high), Policy(budget=Budget(count=2)))
    assert findings.deviation[strange].min() > 3
    assert "capture_fault" not in findings.kinds


def test_a_capture_may_be_strange_for_its_kind_alone(rng):
    """A picture of one kind with the exposure that is usual for the other."""
    kind = np.repeat([0, 1], 300)
    offset = np.array([[1.0, 1.0], [1.0, -1.0]])[kind]
    low, mid, high = (0.1 * rng.normal(size=(600, d)) for d in (6, 12, 24))
    for level in (low, mid, high):
        level[:, :2] += offset
    low[7, :2], mid[7, :2] = offset[400], offset[400]
    findings = mine(pool_of(*map(unit, (low, mid, high))), Policy(budget=Budget(count=1)))
    assert np.argmax(findings.deviation) == 7
    assert findings.z["low"][7] < 3
    *_, second, first = sorted(findings.z[f"{level} for its kind"][7] for level in LEVELS)
    assert findings.deviation[7] == pytest.approx(0.85 * (first + second) / 2)
    assert 7 in findings.flagged
    assert "may be a capture fault" in " ".join(
        findings.reasons[findings.flagged.tolist().index(7)]
    )


def test_a_clear_fault_is_never_an_outlier_whatever_the_budget(levels):
    low, mid, high = levels
    fault, odd = [9], [7]
    low, mid = displaced(low, fault, 2, by=4.0), displaced(mid, [*fault, *odd], 2)
    high = displaced(displaced(high, fault, 2, by=0.7), odd, 2)
    findings = mine(pool_of(low, mid, high), Policy(budget=Budget(count=20)))
    kinds = dict(zip(findings.flagged.tolist(), findings.kinds, strict=True))
    assert findings.score[9] > findings.score[findings.flagged[1:20]].max()
    assert (kinds[7], kinds[9]) == ("outlier", "capture_fault")
    assert findings.kinds.count("outlier") == 20
    assert any("may be a capture fault" in why for why in findings.reasons[-1])


def test_what_may_be_a_fault_or_strange_content_stays_an_edge_case_and_says_so(levels):
    low, mid, high = (
        displaced(level, [9], 2, by) for level, by in zip(levels, (1, 2, 2), strict=True)
    )
    findings = mine(pool_of(low, mid, high), Policy(budget=Budget(count=1)))
    assert findings.flagged.tolist() == [9]
    assert findings.kinds == ["outlier"]
    text = " ".join(findings.reasons[0])
    assert "high level" in text
    assert "may be a capture fault" in text


def test_a_foreign_picture_is_no_fault_of_the_camera(levels):
    """It is far out at every level, at the lowest most."""
    low, mid, high = (displaced(level, [9], 2, by=9.0) for level in levels)
    low = low * [10, 1, 1, 1, 1, 1]  # texture hardly differs
    low[9] = 1
    findings = mine(pool_of(unit(low), mid, high), Policy(budget=Budget(count=1)))
    assert findings.z["low"][9] > findings.z["high"][9] > 6
    assert (findings.flagged.tolist(), findings.kinds) == ([9], ["outlier"])


def many_kinds(rng, apart=0.6):
    """1,290 samples of three kinds, 110 of a rarer one, and 10 that are of none."""
    made = []
    for d in (6, 12, 24):
        centres = apart * rng.normal(size=(4, d)) + 3 * np.eye(d)[0]
        kind = np.repeat([0, 1, 2, 3, 0], [430, 430, 430, 110, 10])
        noise = 0.1 * rng.normal(size=(1410, d))
        if d > 6:
            noise[-10:] *= 4
        made.append(unit(centres[kind] + noise))
    return made


def test_in_a_pool_of_many_kinds_a_rare_one_is_ordinary(rng):
    findings = mine(pool_of(*many_kinds(rng)), Policy(Budget(count=10)))
    assert set(findings.flagged[:10]) == set(range(1400, 1410))
    assert np.quantile(findings.score[1290:1400], 0.9) < 2.5


def test_what_is_far_out_at_the_highest_level_is_something_else(rng):
    """Among many kinds it lies hardly farther from the centre than others do."""
    _, mid, high = (displaced(X, [700], 3, 9.0) for X in many_kinds(rng, 1.2))
    low = displaced(unit(np.eye(6)[0] + 1e-4 * rng.normal(size=(1410, 6))), [700], 3)
    pool = pool_of(low, mid, high)
    findings = mine(pool, Policy(Budget(count=12)))
    assert findings.z["low"][700] > findings.z["high"][700] > 10
    assert findings.kinds[findings.flagged.tolist().index(700)] == "outlier"


def test_a_stuck_camera_makes_no_ordinary_image_strange(levels, rng):
    stuck = [np.concatenate([X, np.repeat(X[:1], 60, axis=0)]) for X in levels]
    stuck = [unit(X + 1e-5 * rng.normal(size=X.shape)) for X in stuck]
    usual = mine(pool_of(*levels), Policy(Budget(count=12)))
    for apart in (0.0, 0.05):
        findings = mine(pool_of(*stuck), Policy(Budget(count=12), apart=apart))
        assert findings.score[1:600].max() < usual.score.max() + 1
        assert findings.broken.sum() <= usual.broken.sum() + 1


def test_to_name_the_sources_makes_no_ordinary_minority_strange(levels):
    """The samples of one panel are far apart by the scale of their own line alone."""
    low, mid, high = (X.copy() for X in levels)
    spread = np.r_[np.full(200, 0.25), np.full(400, 1.0)]  # the first line is alike in itself
    panel = np.arange(180, 198)
    centre = [np.eye(X.shape[1])[0] for X in levels]
    low, mid, high = (
        unit(c + spread[:, None] * (X - c)) for X, c in zip(levels, centre, strict=True)
    )
    mid, high = displaced(mid, panel, 3, 0.3), displaced(high, panel, 3, 0.3)
    pool = pool_of(low, mid, high)
    named = replace(pool, sources=["a"] * 200 + ["b"] * 400)
    asked = Policy(Budget(count=30))
    together, apart = (np.isin(panel, mine(each, asked).flagged).sum() for each in (pool, named))
    assert apart <= together + 3


def test_faults_lend_no_threshold_to_what_a_rate_proves(ordinary):
    reference = ordinary(400)
    pool = ordinary(300, odd=20, near=reference)
    spoilt = {
        level: displaced(X, np.arange(20, 29), 4, by)
        for by, (level, X) in zip((5.0, 1.5, 0.8), pool.embeddings.items(), strict=True)
    }
    pool = replace(pool, embeddings=spoilt)
    policy = Policy(Budget(count=3), fdr=0.1)
    findings = mine(pool, policy, fit_reference(reference))
    kinds = dict(zip(findings.flagged.tolist(), findings.kinds, strict=True))
    assert {kinds[row] for row in range(20, 29)} == {"capture_fault"}
    assert {row for row, kind in kinds.items() if kind == "outlier"} == set(range(20))
    assert findings.notes[-1].endswith("of these are capture faults, or unproven without them")


def test_a_source_that_has_shifted_is_judged_by_itself(ordinary):
    reference = ordinary(400)
    pool = ordinary(200, odd=60, near=reference)
    for X in pool.embeddings.values():
        X[7, 4] += 2
    pool = replace(pool, sources=["night"] * 60 + ["line-3"] * 140)
    findings = mine(pool, Policy(Budget(count=1)), fit_reference(reference))
    assert [shift.source for shift in findings.shifts] == ["night"]
    for values in findings.z.values():
        assert np.median(values[:60]) == pytest.approx(0, abs=1e-6)
    assert findings.flagged.tolist() == [7]


def test_an_edge_case_that_a_rate_flags_again_is_not_near_itself(ordinary):
    reference = ordinary(400)
    pool = ordinary(300, odd=20, near=reference)
    reviews = Reviews([pool.sample_ids[3]], pool.embeddings["high"][3:4], ["edge_case"])
    findings = mine(pool, Policy(fdr=0.1), fit_reference(reference), reviews)
    near = dict(zip(findings.flagged.tolist(), findings.confirmed.tolist(), strict=True))
    assert (near[3], near[4]) == (-1, 0)


def test_groups_of_faults_are_numbered_after_those_of_outliers(levels):
    low, mid, high = levels
    odd, faults = np.arange(6), np.arange(100, 106)
    low, mid = displaced(low, faults, 2, by=4.0), displaced(mid, faults, 2, by=4.0)
    high = displaced(displaced(high, odd, 3), faults, 2, by=0.8)
    findings = mine(pool_of(low, mid, high), Policy(Budget(count=6)))
    groups = dict(zip(findings.flagged.tolist(), findings.group.tolist(), strict=True))
    assert {groups[row] for row in odd} == {0}
    assert {groups[row] for row in faults} - {-1} == {1}


def test_a_fault_that_was_judged_is_no_flag_again(levels):
    low, mid, high = levels
    low, mid = displaced(low, [100, 101], 2), displaced(mid, [100, 101], 2)
    pool = pool_of(low, mid, displaced(high, [7, 8], 3))
    reviews = Reviews([pool.sample_ids[100]], pool.embeddings["high"][[100]], ["duplicate"])
    findings = mine(pool, Policy(Budget(count=2)), reviews=reviews)
    assert (findings.flagged[2:].tolist(), findings.kinds[2:]) == ([101], ["capture_fault"])


def test_a_group_larger_than_the_budget_is_a_group(levels, rng):
    low, mid, high = (level.copy() for level in levels)
    group = np.arange(60)
    for level in (mid, high):
        level[group] = unit(0.1 * rng.normal(size=(60, level.shape[1])) - level.mean(axis=0))
    findings = mine(pool_of(low, mid, high), Policy(budget=Budget(count=20)))
    assert set(findings.flagged[:20]) <= set(group)
    assert findings.group[:20].tolist() == [0] * 20
    assert not set(findings.nearest[:20].ravel()) & set(group)


def test_without_neighbours_to_show_flags_are_grouped_too(levels, rng):
    low, mid, high = levels
    high = high.copy()
    high[:9] = unit(rng.normal(size=24) + 0.02 * rng.normal(size=(9, 24)))
    pool = pool_of(low, mid, high)
    assert (mine(pool, Policy(Budget(count=12))).group == 0).sum() == 9
    findings = mine(pool, Policy(Budget(count=12), nearest=0))
    alike = np.isin(findings.flagged, np.arange(9))
    assert set(findings.group[alike]) == {0}


def test_against_a_reference_its_own_samples_are_what_is_normal(ordinary):
    reference = ordinary(300)
    pool = ordinary(100, odd=3, near=reference)
    baseline, policy = fit_reference(reference), Policy(Budget(count=3))
    junk = [
        reference.sample_ids[row]
        for row in mine(pool, policy, baseline, None, reference).nearest[0]
    ]
    assert set(junk) < set(reference.sample_ids)
    vectors = reference.embeddings["high"]
    rows = [reference.sample_ids.index(one) for one in junk]
    reviews = Reviews(junk, vectors[rows], ["junk"] * 3)
    findings = mine(pool, policy, baseline, reviews, reference)
    for row, near in zip(findings.flagged, findings.nearest, strict=True):
        gaps = np.linalg.norm(vectors - pool.embeddings["high"][row], axis=1)
        gaps[rows] = np.inf
        assert near.tolist() == np.argsort(gaps)[:3].tolist()


def test_what_was_judged_junk_is_not_normal(levels):
    low, mid, high = levels
    high = displaced(high, [7], 3)
    pool, policy = pool_of(low, mid, high), Policy(Budget(count=1))
    junk = mine(pool, policy).nearest[0]
    reviews = Reviews([pool.sample_ids[row] for row in junk], high[junk], ["junk"] * 3)
    assert not set(mine(pool, policy, reviews=reviews).nearest[0]) & set(junk)


def test_a_camera_that_went_dark_is_darker_than_it_was(ordinary):
    reference = ordinary(300)
    pool = ordinary(200, odd=1, near=reference)
    bright, dark = np.linspace(0.4, 0.6, 300), np.r_[0.15, np.linspace(0.1, 0.2, 199)]
    reference, pool = (
        replace(each, quality={"brightness": values})
        for each, values in ((reference, bright), (pool, dark))
    )
    policy, baseline = Policy(Budget(count=1)), fit_reference(reference)
    findings = mine(pool, policy, baseline, None, reference)
    assert "darker than 100% of line-3" in findings.reasons[0]
    elsewhere = replace(pool, sources=["new"] * 200)  # says itself what is usual
    assert "darker" not in " ".join(mine(elsewhere, policy, baseline, None, reference).reasons[0])


def test_quality_outside_the_usual_range_is_a_reason(levels):
    low, mid, high = levels
    brightness = np.linspace(0.4, 0.6, 600)
    brightness[7] = 0.01
    pool = pool_of(low, mid, displaced(high, [7], 3), brightness=brightness)
    findings = mine(pool, Policy(budget=Budget(count=1)))
    assert "darker than 99.8% of line-3" in findings.reasons[0]


def test_nearest_are_the_closest_unflagged_samples(levels):
    low, mid, high = levels
    group = np.arange(12)
    mid, high = displaced(mid, group, 3), displaced(high, group, 3)
    pool = pool_of(low, mid, high)
    findings = mine(pool, Policy(budget=Budget(count=30)))
    assert set(findings.flagged) >= set(group)
    normal = np.setdiff1d(np.arange(600), findings.flagged)
    for row, near, distances in zip(
        findings.flagged, findings.nearest, findings.nearest_distances, strict=True
    ):
        exact = np.linalg.norm(high[normal] - high[row], axis=1)
        assert near.tolist() == normal[np.argsort(exact)[:3]].tolist()
        np.testing.assert_allclose(distances, np.sort(exact)[:3], rtol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 6])
def test_a_pool_smaller_than_the_neighbours_is_mined(n, rng):
    pool = pool_of(*(unit(rng.normal(size=(n, d))) for d in (3, 4, 5)))
    findings = mine(pool, Policy(budget=Budget(count=200)))
    assert len(findings.score) == n
    assert np.isfinite(findings.score).all()
    assert len(findings.flagged) < max(n, 1)
    assert findings.nearest.shape == (len(findings.flagged), 3)


@pytest.mark.parametrize("n", [1, 50])
def test_equal_images_have_no_flags(n):
    findings = mine(
        pool_of(*(unit(np.ones((n, d))) for d in (3, 4, 5))), Policy(budget=Budget(count=200))
    )
    assert len(findings.flagged) == 0
    assert findings.score.tolist() == [0.0] * n


def test_duplicates_of_ordinary_images_are_not_flagged(levels):
    high = levels[2].copy()
    high[:40] = high[0]
    findings = mine(pool_of(*levels[:2], high), Policy(budget=Budget(count=10)))
    assert not np.isin(findings.flagged, np.arange(40)).any()


def test_a_vector_that_is_not_finite_is_refused(levels):
    pool = pool_of(*levels)
    high = levels[2].copy()
    high[3, 0] = np.nan
    with pytest.raises(ValueError, match="row 3"):
        mine(replace(pool, embeddings={**pool.embeddings, "high": high}), Policy())


def test_a_budget_is_a_count_or_a_share():
    assert Budget.parse("200").of(1000) == 200
    assert Budget.parse("200").of(10) == 10
    assert Budget.parse("2%").of(101) == 3
    assert Budget.parse("0.5%").of(100) == 1


@pytest.mark.parametrize("text", ["", "0", "-3", "0%", "101%", "many", "nan%", "2.5"])
def test_another_budget_is_an_error_that_shows_it(text):
    with pytest.raises(UsageError, match=f"budget '{text}'"):
        Budget.parse(text)


def test_near_duplicates_count_once_and_do_not_hide_each_other(levels, rng):
    """Thirty frames of one odd scene: with copies as neighbours none of them stands out."""
    low, mid, high = levels
    video = np.arange(30)
    scene = unit(rng.normal(size=(1, 24)))
    high = high.copy()
    high[video] = unit(scene + 0.002 * rng.normal(size=(30, 24)))
    pool, budget = pool_of(low, mid, high), Budget(count=10)

    each = mine(pool, Policy(budget, detector="knn"))
    once = mine(pool, Policy(budget, detector="knn", apart=0.05))

    assert not set(each.flagged) & set(video)
    assert (each.duplicate_of == -1).all()
    (first,) = set(once.flagged) & set(video)
    assert once.flagged[0] == first
    assert len(once.flagged) == 10
    assert "stands for 29 near-duplicates too" in once.reasons[0]
    assert set(np.flatnonzero(once.duplicate_of == first)) == set(video) - {first}
    assert (once.duplicate_of >= 0).sum() == 29
    assert not set(once.nearest.ravel()) & set(video)


def test_a_copy_of_an_outlier_is_no_capture_fault(levels):
    """Both deviate at all levels; the copy is not a flag of its own kind."""
    moved = [displaced(X, [3, 4], 2, by=5.0) for X in levels]
    for X in moved:
        X[4] = X[3]
    policy = Policy(Budget(count=5), apart=0.01)
    assert len({3, 4} & set(mine(pool_of(*moved), policy).flagged)) == 1
    assert {3, 4} <= set(mine(pool_of(*moved), Policy(Budget(count=1))).flagged)
