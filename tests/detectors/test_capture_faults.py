"""What is a fault of the capture, and what stays an edge case."""

from dataclasses import replace

import numpy as np
import pytest

from detectors.baseline import fit_reference
from detectors.findings import Budget, Policy, Reviews
from detectors.mining import mine
from schemas.records import LEVELS


def test_a_capture_fault_stands_beside_the_budget(levels, pool_of, displaced):
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


def test_a_clear_fault_is_never_an_outlier_whatever_the_budget(levels, pool_of, displaced):
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


def test_what_may_be_a_fault_or_strange_content_stays_an_edge_case_and_says_so(
    levels, pool_of, displaced
):
    low, mid, high = (
        displaced(level, [9], 2, by) for level, by in zip(levels, (1, 2, 2), strict=True)
    )
    findings = mine(pool_of(low, mid, high), Policy(budget=Budget(count=1)))
    assert findings.flagged.tolist() == [9]
    assert findings.kinds == ["outlier"]
    text = " ".join(findings.reasons[0])
    assert "high level" in text
    assert "may be a capture fault" in text


def test_what_is_strange_in_its_contents_alone_is_no_capture_fault(levels, pool_of, displaced):
    low, mid, high = levels
    strange = [100, 101]
    mid, high = displaced(mid, strange, 2, by=5.0), displaced(high, strange, 2, by=5.0)
    high = displaced(high, [7, 8], 3, by=9.0)
    findings = mine(pool_of(low, mid, high), Policy(budget=Budget(count=2)))
    assert findings.deviation[strange].min() > 3
    assert "capture_fault" not in findings.kinds


def test_a_capture_may_be_strange_for_its_kind_alone(rng, pool_of, unit):
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


def test_a_foreign_picture_is_no_fault_of_the_camera(levels, pool_of, displaced, unit):
    """It is far out at every level, at the lowest most."""
    low, mid, high = (displaced(level, [9], 2, by=9.0) for level in levels)
    low = low * [10, 1, 1, 1, 1, 1]  # texture hardly differs
    low[9] = 1
    findings = mine(pool_of(unit(low), mid, high), Policy(budget=Budget(count=1)))
    assert findings.z["low"][9] > findings.z["high"][9] > 6
    assert (findings.flagged.tolist(), findings.kinds) == ([9], ["outlier"])


def test_what_is_far_out_at_the_highest_level_is_something_else(
    rng, pool_of, displaced, unit, many_kinds
):
    """Among many kinds it lies hardly farther from the centre than others do."""
    _, mid, high = (displaced(X, [700], 3, 9.0) for X in many_kinds(1.2))
    low = displaced(unit(np.eye(6)[0] + 1e-4 * rng.normal(size=(1410, 6))), [700], 3)
    pool = pool_of(low, mid, high)
    findings = mine(pool, Policy(Budget(count=12)))
    assert findings.z["low"][700] > findings.z["high"][700] > 10
    assert findings.kinds[findings.flagged.tolist().index(700)] == "outlier"


def test_a_copy_of_an_outlier_is_no_capture_fault(levels, pool_of, displaced):
    """Both deviate at all levels; the copy is not a flag of its own kind."""
    moved = [displaced(X, [3, 4], 2, by=5.0) for X in levels]
    for X in moved:
        X[4] = X[3]
    policy = Policy(Budget(count=5), apart=0.01)
    assert len({3, 4} & set(mine(pool_of(*moved), policy).flagged)) == 1
    assert {3, 4} <= set(mine(pool_of(*moved), Policy(Budget(count=1))).flagged)


def test_another_detectors_score_is_a_reason_of_what_it_flagged_alone(levels, pool_of, displaced):
    low, mid, high = levels
    low, mid = displaced(low, [100, 101], 2), displaced(mid, [100, 101], 2)
    high = displaced(high, [7, 8], 3)
    policy = Policy(budget=Budget(count=2), detector="knn")
    findings = mine(pool_of(low, mid, high), policy)
    assert findings.kinds == ["outlier"] * 2 + ["capture_fault"] * 2
    named = [any("knn score" in reason for reason in why) for why in findings.reasons]
    assert named == [True, True, False, False]


def test_faults_lend_no_threshold_to_what_a_rate_proves(ordinary, displaced):
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
    assert "at most 10% of the 20 outliers" in findings.notes[-1]


def test_groups_of_faults_are_numbered_after_those_of_outliers(levels, pool_of, displaced):
    low, mid, high = levels
    odd, faults = np.arange(6), np.arange(100, 106)
    low, mid = displaced(low, faults, 2, by=4.0), displaced(mid, faults, 2, by=4.0)
    high = displaced(displaced(high, odd, 3), faults, 2, by=0.8)
    findings = mine(pool_of(low, mid, high), Policy(Budget(count=6)))
    groups = dict(zip(findings.flagged.tolist(), findings.group.tolist(), strict=True))
    assert {groups[row] for row in odd} == {0}
    assert {groups[row] for row in faults} - {-1} == {1}


def test_a_fault_that_was_judged_is_no_flag_again(levels, pool_of, displaced):
    low, mid, high = levels
    low, mid = displaced(low, [100, 101], 2), displaced(mid, [100, 101], 2)
    pool = pool_of(low, mid, displaced(high, [7, 8], 3))
    reviews = Reviews([pool.sample_ids[100]], pool.embeddings["high"][[100]], ["duplicate"])
    findings = mine(pool, Policy(Budget(count=2)), reviews=reviews)
    assert (findings.flagged[2:].tolist(), findings.kinds[2:]) == ([101], ["capture_fault"])
