from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from detectors.baseline import Baseline, fit_pool, fit_reference, fit_scales
from detectors.findings import Budget, Policy, Reviews
from detectors.measures import ISOLATION, LOCAL, PARTS, groups_heard
from detectors.mining import mine
from detectors.pool import Pool
from schemas.errors import CorruptionError
from schemas.records import LEVELS


def test_a_saved_baseline_scores_as_the_fitted_one(ordinary, tmp_path):
    reference = ordinary(300)
    baseline = fit_reference(reference, about={"encoder": "e", "snapshot": 3})
    pool = ordinary(80, near=reference)
    baseline.save(tmp_path / "known.npz")
    loaded = Baseline.load(tmp_path / "known.npz")
    assert loaded.about == {"encoder": "e", "snapshot": 3}
    first, second = (mine(pool, Policy(), each) for each in (baseline, loaded))
    np.testing.assert_array_equal(first.score, second.score)
    np.testing.assert_array_equal(first.p_value, second.p_value)


@pytest.mark.parametrize("damage", [b"", b"not an archive", None])
def test_a_damaged_state_is_named_with_the_way_out(damage, ordinary, tmp_path):
    path = tmp_path / "known.npz"
    fit_reference(ordinary(50)).save(path)
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    with pytest.raises(CorruptionError, match=r"known.npz.*fit it again"):
        Baseline.load(path)


def test_a_state_with_a_damaged_byte_is_read_or_named(rng, ordinary, tmp_path):
    path = tmp_path / "known.npz"
    fit_reference(ordinary(20)).save(path)
    whole, named = path.read_bytes(), 0
    for place in rng.integers(len(whole), size=200):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            Baseline.load(path)
        except CorruptionError:
            named += 1
    assert named > 150


def test_a_score_means_the_same_whatever_else_is_in_the_pool(ordinary):
    reference = ordinary(300)
    baseline = fit_reference(reference)
    pool = ordinary(100, near=reference)
    alone = mine(pool, Policy(), baseline).score[:10]
    ten = Pool(
        sample_ids=pool.sample_ids[:10],
        sources=pool.sources[:10],
        embeddings={level: X[:10] for level, X in pool.embeddings.items()},
        quality={},
        distances=pool.distances[:10],
        neighbours=pool.neighbours[:10],
    )
    np.testing.assert_allclose(mine(ten, Policy(), baseline).score, alone)


def test_a_large_source_is_judged_by_itself_and_a_small_one_by_all(rng):
    near, far = np.exp(rng.normal(size=2000)), np.exp(4 + rng.normal(size=2000))
    lone = np.exp(4 + rng.normal(size=3))
    raw = {"high": np.concatenate([near, far, lone])}
    sources = ["near"] * 2000 + ["far"] * 2000 + ["lone"] * 3
    z = fit_scales(raw, sources).z(raw, sources)["high"]
    assert abs(np.median(z[2000:4000])) < 0.2
    assert z[4000:].min() > -0.5
    alone = {"high": np.concatenate([near, lone])}
    sources = ["near"] * 2000 + ["lone"] * 3
    assert fit_scales(alone, sources).z(alone, sources)["high"][2000:].max() > 3


def test_a_reference_of_two_kinds_tells_what_is_far_for_the_denser_one(rng, unit, pool_of):
    kind = np.repeat([0.05, 0.4], [400, 200])[:, None]

    def made(spread):
        X = spread * rng.normal(size=(len(spread), 24))
        X[:, 0] += np.where(spread[:, 0] < 0.2, -3, 3)
        return [unit(X[:, :d]) for d in (6, 12, 24)]

    reference = pool_of(*made(kind))
    odd = np.full((5, 1), 0.15)
    pool = pool_of(*made(np.concatenate([odd, kind])), near=reference)
    findings = mine(pool, Policy(Budget(count=5)), fit_reference(reference))
    local, isolation = findings.z[LOCAL], findings.z[ISOLATION]
    assert local[:5].min() > local[5:].max()
    assert isolation[:5].max() < np.median(isolation[-200:])


def test_a_source_of_which_a_measure_is_unknown_is_judged_by_all(rng):
    sources = ["known"] * 500 + ["unknown"] * 500
    raw = {"patch": np.r_[np.exp(rng.normal(size=500)), np.full(500, np.nan)]}
    scales = fit_scales(raw, sources)
    assert scales.of_source["unknown"]["patch"] == scales.pooled["patch"]


def test_copies_in_a_reference_say_nothing_of_what_is_usual(rng, unit, pool_of):
    """A camera was stuck for nearly half of it; if that counted, half of the rest would be odd."""
    frame = [np.eye(d)[0] + 0.1 * rng.normal(size=d) for d in (6, 12, 24)]

    def made(n, odd=0):
        levels = [np.eye(d)[0] + 0.1 * rng.normal(size=(n, d)) for d in (6, 12, 24)]
        for X, stuck in zip(levels, frame, strict=True):
            X[:odd] += 0.3 * rng.normal(size=(odd, X.shape[1]))
            X[-n * 44 // 100 :] = stuck + 1e-3 * rng.normal(size=(n * 44 // 100, len(stuck)))
        return [unit(X) for X in levels]

    reference = pool_of(*made(200))
    baseline = fit_reference(reference)
    assert baseline.score(baseline.z).max() < 3.5
    pool = pool_of(*made(200, odd=5), near=reference)
    findings = mine(pool, Policy(Budget(count=5)), baseline)
    assert set(findings.flagged[:5]) == set(range(5))
    stuck = pool_of(*(X[-80:] for X in pool.embeddings.values()), near=reference)
    np.testing.assert_allclose(mine(stuck, Policy(), baseline).score, findings.score[-80:])


def test_against_a_reference_three_have_a_say_and_the_nearest_samples_two_words_of_it(ordinary):
    reference = ordinary(300)
    baseline = fit_reference(reference)
    z = mine(ordinary(200, wild=20, near=reference), Policy(), baseline).z
    z = {**z, ISOLATION: z[ISOLATION].copy()}
    z[ISOLATION][0] = -9  # so near that it had a veto
    limited = {name: np.maximum(values, -3.5) for name, values in z.items()}
    nearest = (limited[ISOLATION] + limited[LOCAL]) / 2
    by_hand = (nearest + limited["high"] + limited[PARTS]) / 3
    np.testing.assert_allclose(baseline.score(z), by_hand)


def test_who_is_left_out_stays_a_neighbour_until_forgotten(ordinary):
    reference = ordinary(300)
    pool = ordinary(50, near=reference)
    baseline = fit_reference(reference)
    first = reference.sample_ids[:100]
    np.testing.assert_array_equal(
        baseline.without(first).measure(pool)[LOCAL], baseline.measure(pool)[LOCAL]
    )
    rows = np.where(pool.neighbours < 100, -1, pool.neighbours - 100)
    theirs = [baseline.isolation[100:][near[near >= 0]] for near in rows[:, :3]]
    usual = [np.exp(np.log(some).mean()) if len(some) else 1 for some in theirs]
    own = pool.distances[:, :3].mean(axis=1)
    by_hand = np.where([len(some) for some in theirs], own / usual, 1)
    measured = baseline.forget(first).measure(replace(pool, neighbours=rows))[LOCAL]
    np.testing.assert_allclose(measured, by_hand, rtol=1e-5)


@pytest.mark.parametrize(("forgotten", "said"), [(30, False), (31, True)])
def test_of_a_reference_that_lost_more_than_a_tenth_nothing_is_promised(
    ordinary, tmp_path, forgotten, said
):
    reference = ordinary(300)
    baseline = fit_reference(reference)
    for few in np.array_split(reference.sample_ids[:forgotten], 3):
        baseline = baseline.forget([*few.tolist(), "of another reference"])
    baseline = baseline.without(reference.sample_ids[-100:])
    baseline.save(tmp_path / "baseline.npz")
    baseline = Baseline.load(tmp_path / "baseline.npz")
    left = ordinary(300 - forgotten)
    pool = ordinary(200, wild=20, near=left)
    told = f"{forgotten} of the 300 samples that the reference was fitted on are forgotten"
    promised, ranked = (mine(pool, Policy(fdr=fdr), baseline) for fdr in (0.1, None))
    assert promised.promised == (not said)
    assert any(told in note for note in promised.notes) == said
    assert any(told in note for note in ranked.notes) == said


def test_who_is_forgotten_with_all_that_was_like_it_is_missed(ordinary, unit, tmp_path):
    """A twentieth of another kind; of the others some do, in whose place others are."""
    reference = ordinary(400, odd=20)
    baseline, X = fit_reference(reference), reference.embeddings["high"]
    for gone, missed in ((np.arange(20), 20), (np.arange(100, 120), 0)):
        ids = [reference.sample_ids[row] for row in gone]
        gaps = np.sort(cdist(X[gone], np.delete(X, gone, axis=0)), axis=1)[:, :3]
        alone = baseline.alone(ids, gaps)
        assert alone.sum() == pytest.approx(missed, abs=2)
        left = baseline.forget(ids, missed=int(alone.sum()))
        left.save(tmp_path / "baseline.npz")
        told = Baseline.load(tmp_path / "baseline.npz").thinned
        assert ("forgotten with all that was like them" in told) == (missed > 0)


def test_parts_of_another_image_are_strange_to_a_reference(ordinary):
    """Each level alone is as ordinary as can be; only together they are not."""
    known = ordinary(400)
    shown = known.embeddings["high"].copy()
    shown[:, :12] = known.embeddings["mid"]
    known = replace(known, embeddings={**known.embeddings, "high": shown})
    pool = replace(
        known, embeddings={**known.embeddings, "mid": np.roll(known.embeddings["mid"], 1, axis=0)}
    )
    findings = mine(pool, Policy(Budget(count=5)), fit_reference(known))
    assert all(np.abs(np.median(findings.z[level])) < 0.2 for level in LEVELS)
    assert np.median(findings.z[PARTS]) > 4
    assert "the other levels" in findings.reasons[0][0]


def test_samples_of_the_reference_are_held_against_the_others(ordinary):
    reference = ordinary(300)
    baseline = fit_reference(reference)
    fresh = mine(ordinary(300, near=reference), Policy(), baseline)
    assert abs(np.median(fresh.score) - np.median(baseline.score(baseline.z))) < 0.3


def test_p_values_of_normal_samples_are_uniform_and_of_odd_ones_small(ordinary):
    reference = ordinary(400)
    findings = mine(ordinary(300, odd=6, near=reference), Policy(), fit_reference(reference))
    assert findings.p_value[:6].max() == pytest.approx(1 / 401)
    assert 0.03 < np.mean(findings.p_value[6:] <= 0.1) < 0.2


def test_a_rate_is_promised_from_a_clean_reference(ordinary):
    reference = ordinary(400)
    pool = ordinary(300, odd=20, near=reference)
    findings = mine(pool, Policy(Budget(count=3), fdr=0.1), fit_reference(reference))
    outliers = [r for r, k in zip(findings.flagged, findings.kinds, strict=True) if k == "outlier"]
    assert set(range(20)) <= set(outliers)
    assert len(outliers) <= 25
    said = f"at most 10% of the {len(outliers)} outliers are expected to be false alarms"
    assert findings.notes == [said]


@pytest.mark.parametrize("reason", ["no clean reference", "contaminated", "shift", "cannot prove"])
def test_a_promise_that_cannot_be_kept_is_said_and_falls_back(reason, ordinary):
    sizes = {"contaminated": (400, 24, 4), "shift": (400, 0, 180), "cannot prove": (100, 0, 25)}
    known, dirty, odd = sizes.get(reason, (400, 0, 4))
    reference = ordinary(known, wild=dirty)
    known = None if reason == "no clean reference" else reference
    pool = ordinary(300, odd=odd, near=known)
    baseline = known and fit_reference(known)
    findings = mine(pool, Policy(Budget(count=3), fdr=0.1), baseline)
    assert findings.kinds.count("outlier") == 3
    assert reason in findings.notes[-1]
    assert "ranked to the budget" in findings.notes[-1]


def test_a_pool_of_nothing_but_outliers_is_no_discovery_but_a_shift(ordinary):
    reference = ordinary(400)
    pool = ordinary(300, wild=300, near=reference)
    findings = mine(pool, Policy(Budget(count=3), fdr=0.1), fit_reference(reference))
    assert findings.kinds.count("outlier") == 3
    assert "shift" in findings.notes[-1]


def outliers_of(findings):
    pairs = zip(findings.flagged, findings.kinds, strict=True)
    return {int(row) for row, kind in pairs if kind == "outlier"}


@pytest.mark.parametrize(
    ("moved", "why"), [(200, "shifted away"), (24, "unknown to the reference")]
)
def test_a_source_without_a_rate_costs_the_others_nothing(moved, why, ordinary):
    """No sample of the other source is an edge case, and all are strange."""
    reference = ordinary(900)
    pool = ordinary(400 + moved, odd=20 + moved, near=reference)
    pool = replace(pool, sources=["line-3"] * 20 + ["line-9"] * moved + ["line-3"] * 380)
    findings = mine(pool, Policy(fdr=0.1), fit_reference(reference))
    found = outliers_of(findings)
    assert findings.promised
    assert set(range(20)) <= found
    assert not any(20 <= row < 20 + moved for row in found)
    assert "no rate is promised for source 'line-9'" in findings.notes[0]
    assert why in findings.notes[0]
    assert f"at most 10% of the {len(found)} outliers are expected" in findings.notes[1]


def test_as_many_edge_cases_stand_where_a_kind_of_its_own_does_not(ordinary):
    reference = ordinary(600)
    baseline, policy = fit_reference(reference), Policy(fdr=0.1)
    diverse = mine(ordinary(400, wild=60, near=reference), policy, baseline)
    assert diverse.promised
    assert set(range(340, 400)) <= outliers_of(diverse)
    alike = mine(ordinary(400, odd=60, near=reference), policy, baseline)
    assert not alike.promised
    assert "as near to each other as ordinary ones: a shift" in alike.notes[-1]


def test_no_rate_is_promised_where_near_duplicates_count_once(ordinary):
    reference = ordinary(400)
    pool = ordinary(300, odd=20, near=reference)
    findings = mine(pool, Policy(Budget(count=3), fdr=0.1, apart=0.1), fit_reference(reference))
    assert not findings.promised
    assert findings.kinds.count("outlier") == 3
    assert "with 'apart' near-duplicates count once" in findings.notes[-1]


def test_a_detector_without_p_values_is_named(ordinary):
    reference = ordinary(400)
    pool = replace(ordinary(300, near=reference), uncertainty=np.linspace(0, 1, 300))
    policy = Policy(Budget(count=3), fdr=0.1, detector="uncertainty")
    findings = mine(pool, policy, fit_reference(reference))
    assert findings.notes[-1].endswith("detector 'uncertainty' has no p-values")


def test_a_new_camera_is_one_shift_and_not_a_thousand_edge_cases(ordinary):
    reference = ordinary(400, source="day")
    start = np.datetime64("2026-03-01T00:00:00")
    pool = ordinary(200, odd=200, near=reference, source="night", start=start)
    findings = mine(pool, Policy(Budget(share=0.02)), fit_reference(reference))
    assert len(findings.shifts) == 1
    shift = findings.shifts[0]
    assert shift.source == "night"
    assert shift.deviations > 1
    assert shift.p_value < 1e-6
    assert shift.since == start
    assert "source 'night' has shifted" in str(shift)
    assert len(findings.flagged) < 15


def test_the_usual_pool_has_no_shift(ordinary):
    reference = ordinary(400)
    pool = ordinary(200, near=reference)
    assert mine(pool, Policy(), fit_reference(reference)).shifts == []


def test_verdicts_move_what_is_like_them(ordinary):
    pool = ordinary(300, odd=8)
    before = mine(pool, Policy(Budget(count=8)))
    junk = before.flagged[:1]
    high = pool.embeddings["high"]
    reviews = Reviews([pool.sample_ids[i] for i in junk], high[junk], ["normal"])
    after = mine(pool, Policy(Budget(count=8)), reviews=reviews)
    assert after.flagged[0] != junk[0]
    assert not np.isin(after.flagged[:8], np.arange(8)).any()
    assert after.moved == 7  # one more has the place that the judged one left
    np.testing.assert_array_equal(before.score, after.score)


def test_a_confirmed_edge_case_nearby_is_a_reason(ordinary):
    pool = ordinary(300, odd=8)
    high = pool.embeddings["high"]
    reviews = Reviews([pool.sample_ids[3]], high[3:4], ["edge_case"])
    findings = mine(pool, Policy(Budget(count=8)), reviews=reviews)
    other = next(i for i, row in enumerate(findings.flagged) if row != 3 and row < 8)
    assert f"from confirmed edge case {pool.sample_ids[3][:12]}" in " ".join(
        findings.reasons[other]
    )


def test_alike_flags_form_a_group_with_a_medoid(ordinary):
    findings = mine(ordinary(300, odd=8), Policy(Budget(count=16)))
    number = findings.group[np.flatnonzero(findings.flagged < 8)[0]]
    members = findings.group == number
    assert set(findings.flagged[members]) == set(range(8))
    assert np.sort(findings.group_distance[members])[0] == 0
    assert np.isnan(findings.group_distance[findings.group < 0]).all()


@pytest.mark.parametrize("copies", [3, 90])
def test_copies_of_an_oddity_hide_one_another_nowhere(copies, ordinary):
    """Their neighbours are each other, and so many bend a fit towards themselves."""
    pool = ordinary(600, wild=1)
    for level in ("mid", "high"):
        pool.embeddings[level][:copies] = pool.embeddings[level][-1]
    pool.distances[:copies, : copies - 1] = 0
    baseline = fit_pool(pool)
    first = np.argsort(-baseline.score(baseline.z))[: copies + 1]
    assert set(first) == {*range(copies), 599}


def test_the_pool_itself_is_the_baseline_without_a_reference(ordinary):
    pool = ordinary(300, odd=5)
    findings = mine(pool, Policy(Budget(count=5)))
    assert findings.p_value is None
    np.testing.assert_array_equal(findings.score, fit_pool(pool).score(fit_pool(pool).z))


def test_in_a_pool_the_nearest_have_one_word_of_three_relative_to_those_of_a_crowd(ordinary):
    pool = ordinary(400, odd=3, wild=3)
    findings = mine(pool, Policy())
    isolation = np.log(pool.distances[:, :3].mean(axis=1))
    by_hand = isolation - isolation[pool.neighbours[:, :40]].mean(axis=1)
    by_hand -= np.median(by_hand)
    local = findings.z[LOCAL]
    np.testing.assert_allclose(local, by_hand / (1.4826 * np.median(np.abs(by_hand))), atol=1e-5)
    z = {name: np.maximum(values, -3.5) for name, values in findings.z.items()}
    nearest = (z[ISOLATION] + z[LOCAL]) / 2
    single = (nearest + z["high among its like"] + z["mid among its like"]) / 3
    alone = np.max([*groups_heard(findings.z, "high").values()], axis=0) == -np.inf
    assert alone.sum() > 390
    np.testing.assert_allclose(findings.score[alone], single[alone])
