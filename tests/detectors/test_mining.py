from dataclasses import replace

import numpy as np
import pytest

from detectors.baseline import fit_reference
from detectors.findings import Budget, Policy, Reviews
from detectors.mining import mine
from detectors.pool import Patches


def test_finds_single_outliers_and_a_group_of_alike_ones(levels, rng, pool_of, displaced, unit):
    low, mid, high = levels
    single, group = np.arange(5), np.arange(5, 25)
    high = high.copy()
    high[single] = unit(rng.normal(size=(5, 24)))
    mid, high = displaced(mid, group, axis=3), displaced(high, group, axis=3)
    findings = mine(pool_of(low, mid, high), Policy(budget=Budget(count=50)))
    assert set(findings.flagged) >= set(range(25))
    assert findings.kinds == ["outlier"] * 50


@pytest.mark.parametrize(("n", "size"), [(90, 3), (600, 3), (600, 25), (600, 55)])
def test_near_copies_of_one_strange_image_are_found_whatever_their_number(
    n, size, levels, rng, pool_of, unit
):
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


def test_flags_come_best_first_and_scores_count_robust_deviations(levels, pool_of, displaced):
    low, mid, high = levels
    policy = Policy(budget=Budget(share=0.02))
    findings = mine(pool_of(low, mid, displaced(high, [7], 3)), policy)
    assert findings.flagged[0] == 7
    assert len(findings.flagged) == 12
    assert findings.score[7] == findings.score.max() > 3.5
    assert (np.diff(findings.score[findings.flagged]) <= 0).all()
    assert abs(np.median(findings.score)) < 0.2


def test_no_more_neighbours_are_told_than_there_are(levels, pool_of, displaced):
    low, mid, high = levels
    pool = pool_of(low, mid, displaced(high, [7], 3), k=1000)
    findings = mine(pool, Policy(budget=Budget(count=1), neighbours=1000))
    assert any(reason.startswith("599 nearest images ") for reason in findings.reasons[0])


def test_a_level_that_the_encoder_lacks_is_no_ones_strangest(levels, pool_of):
    absent, high = np.zeros((300, 1), np.float32), levels[2]
    reference, pool = (pool_of(absent, absent, some) for some in (high[:300], high[300:]))
    for baseline in (None, fit_reference(reference)):
        assert set(mine(pool, Policy(), baseline).level) == {"high"}


def test_in_a_pool_of_many_kinds_a_rare_one_is_ordinary(pool_of, many_kinds):
    findings = mine(pool_of(*many_kinds()), Policy(Budget(count=10)))
    assert set(findings.flagged[:10]) == set(range(1400, 1410))
    assert np.quantile(findings.score[1290:1400], 0.9) < 2.5


def test_a_stuck_camera_makes_no_ordinary_image_strange(levels, rng, pool_of, unit):
    stuck = [np.concatenate([X, np.repeat(X[:1], 60, axis=0)]) for X in levels]
    stuck = [unit(X + 1e-5 * rng.normal(size=X.shape)) for X in stuck]
    usual = mine(pool_of(*levels), Policy(Budget(count=12)))
    for apart in (0.0, 0.05):
        findings = mine(pool_of(*stuck), Policy(Budget(count=12), apart=apart))
        assert findings.score[1:600].max() < usual.score.max() + 1
        assert findings.broken.sum() <= usual.broken.sum() + 1


@pytest.mark.parametrize("sources", [1, 3])
def test_a_camera_that_was_stuck_most_of_the_time_makes_no_ordinary_image_strange(
    sources, levels, rng, pool_of, displaced, unit
):
    """Two thirds of one camera's images are one; the rest, and what is odd, count as ever."""
    rows = np.repeat(np.arange(200), [401, *[1] * 199]) if sources > 1 else np.arange(600)
    rows = np.r_[rows, np.arange(200, 600)] if sources > 1 else np.r_[np.full(1200, 0), rows]
    odd = [
        displaced(X, np.arange(590, 600), 3, by) for X, by in zip(levels, (0, 1, 1), strict=True)
    ]
    copied = [unit(X[rows] + 1e-3 * rng.normal(size=(len(rows), X.shape[1]))) for X in odd]
    names = np.minimum(rows // 200, sources - 1).astype(str).tolist()
    pool = replace(pool_of(*copied), sources=names)
    findings = mine(pool, Policy(Budget(count=10)))
    assert set(rows[findings.flagged[:10]]) == set(range(590, 600))
    assert findings.kinds.count("capture_fault") <= 3


def test_a_neighbour_that_a_search_did_not_find_is_none(levels, pool_of):
    """An approximate index gives back fewer than were asked for, and infinity for the rest."""
    pool = pool_of(*levels)
    found = []
    for missing in (np.nan, np.inf):
        distances, neighbours = pool.distances.copy(), pool.neighbours.copy()
        distances[::3, 20:], neighbours[::3, 20:] = missing, -1
        found.append(mine(replace(pool, distances=distances, neighbours=neighbours), Policy()))
    np.testing.assert_array_equal(found[0].score, found[1].score)
    assert found[1].z["crowd"].max() < 7


@pytest.mark.parametrize("unknown", [0.3, 0.49])
def test_spots_that_nobody_looked_for_make_the_others_no_stranger(unknown, rng, levels, pool_of):
    score = np.exp(0.1 * rng.normal(size=600))
    score[rng.permutation(600)[: int(unknown * 600)]] = np.nan
    pool = replace(pool_of(*levels), patches=Patches(score, *np.full((2, 600), 0.5)))
    z = mine(pool, Policy()).z["patch"]
    assert 0.8 < z[~np.isnan(score)].std() < 1.2
    assert (z[np.isnan(score)] == 0).all()


def test_to_name_the_sources_makes_no_ordinary_minority_strange(levels, pool_of, displaced, unit):
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


def test_a_rate_flags_nothing_that_was_judged_again(ordinary):
    """The others are near it, and the rate is of what is left to look at."""
    reference = ordinary(400)
    pool = ordinary(300, odd=20, near=reference)
    reviews = Reviews([pool.sample_ids[3]], pool.embeddings["high"][3:4], ["edge_case"])
    findings = mine(pool, Policy(fdr=0.1), fit_reference(reference), reviews)
    near = dict(zip(findings.flagged.tolist(), findings.confirmed.tolist(), strict=True))
    assert set(near) >= set(range(20)) - {3}
    assert 3 not in near
    assert near[4] == 0
    assert f"of the {len(near)} outliers" in findings.notes[-1]


def test_a_group_larger_than_the_budget_is_a_group(levels, rng, pool_of, unit):
    low, mid, high = (level.copy() for level in levels)
    group = np.arange(60)
    for level in (mid, high):
        level[group] = unit(0.1 * rng.normal(size=(60, level.shape[1])) - level.mean(axis=0))
    findings = mine(pool_of(low, mid, high), Policy(budget=Budget(count=20)))
    assert set(findings.flagged[:20]) <= set(group)
    assert findings.group[:20].tolist() == [0] * 20
    assert not set(findings.nearest[:20].ravel()) & set(group)


def test_without_neighbours_to_show_flags_are_grouped_too(levels, rng, pool_of, unit):
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


def test_what_was_judged_junk_is_not_normal(levels, pool_of, displaced):
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


def test_quality_outside_the_usual_range_is_a_reason(levels, pool_of, displaced):
    low, mid, high = levels
    brightness = np.linspace(0.4, 0.6, 600)
    brightness[7] = 0.01
    pool = pool_of(low, mid, displaced(high, [7], 3), brightness=brightness)
    findings = mine(pool, Policy(budget=Budget(count=1)))
    assert "darker than 99.8% of line-3" in findings.reasons[0]


def test_nearest_are_the_closest_unflagged_samples(levels, pool_of, displaced):
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
def test_a_pool_smaller_than_the_neighbours_is_mined(n, rng, pool_of, unit):
    pool = pool_of(*(unit(rng.normal(size=(n, d))) for d in (3, 4, 5)))
    findings = mine(pool, Policy(budget=Budget(count=200)))
    assert len(findings.score) == n
    assert np.isfinite(findings.score).all()
    assert len(findings.flagged) < max(n, 1)
    assert findings.nearest.shape == (len(findings.flagged), 3)


@pytest.mark.parametrize("n", [1, 50])
def test_equal_images_have_no_flags(n, pool_of, unit):
    findings = mine(
        pool_of(*(unit(np.ones((n, d))) for d in (3, 4, 5))), Policy(budget=Budget(count=200))
    )
    assert len(findings.flagged) == 0
    assert findings.score.tolist() == [0.0] * n


def test_duplicates_of_ordinary_images_are_not_flagged(levels, pool_of):
    high = levels[2].copy()
    high[:40] = high[0]
    findings = mine(pool_of(*levels[:2], high), Policy(budget=Budget(count=10)))
    assert not np.isin(findings.flagged, np.arange(40)).any()


def test_a_vector_that_is_not_finite_is_refused(levels, pool_of):
    pool = pool_of(*levels)
    high = levels[2].copy()
    high[3, 0] = np.nan
    with pytest.raises(ValueError, match="row 3"):
        mine(replace(pool, embeddings={**pool.embeddings, "high": high}), Policy())


def test_near_duplicates_count_once_and_do_not_hide_each_other(levels, rng, pool_of, unit):
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
