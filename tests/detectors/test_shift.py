"""Without a reference: a source that is unlike the others."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from detectors.baseline import fit_reference
from detectors.findings import Budget, Policy
from detectors.mining import mine
from detectors.pool import Pool
from detectors.shift import find_shifts, find_unlike
from schemas.records import LEVELS

START = np.datetime64("2026-03-01T00:00:00")


def of_sources(pool, names):
    return replace(pool, sources=list(names))


def said(pool):
    return [shift.source for shift in mine(pool, Policy(Budget(share=0.02))).shifts]


@pytest.mark.parametrize("samples", [30, 60, 100, 200, 290])
def test_a_new_camera_is_told_once_whatever_its_share(ordinary, samples):
    pool = ordinary(600, odd=samples, start=START)
    # Its first image is the newest of all but those that follow it.
    times = np.roll(pool.times, samples)
    pool = of_sources(replace(pool, times=times), ["new"] * samples + ["old"] * (600 - samples))
    findings = mine(pool, Policy(Budget(share=0.02)))
    (shift,) = findings.shifts
    assert (shift.source, shift.samples, shift.since) == ("new", samples, times[0])
    assert shift.level in {"mid", "high"}  # what the fixture moves most
    assert shift.p_value < 1e-6
    assert str(shift).startswith(f"source 'new' is unlike the others: half of its {samples} ")
    assert np.mean(findings.flagged < samples) < 0.8
    assert len(findings.flagged) <= 0.04 * 600


def test_its_samples_are_judged_among_each_other(ordinary):
    pool = of_sources(ordinary(600), ["new"] * 40 + ["old"] * 560)
    for X in pool.embeddings.values():
        X[:40, 3] += 2
        X[7, 3] += 2
    findings = mine(pool, Policy(Budget(count=10)))
    assert set(findings.flagged[findings.flagged < 40]) == {7}


def test_how_far_it_lies_does_not_depend_on_its_share(ordinary):
    out = []
    for samples in (40, 280):
        pool = ordinary(600, odd=samples)
        pool = of_sources(pool, ["new"] * samples + ["old"] * (600 - samples))
        out.append(mine(pool, Policy()).shifts[0].deviations)
    assert out[0] == pytest.approx(out[1], rel=0.15)


def test_two_new_cameras_that_are_alike_are_both_told(ordinary):
    names = ["second"] * 60 + ["third"] * 60 + ["first"] * 480
    assert sorted(said(of_sources(ordinary(600, odd=120), names))) == ["second", "third"]


@pytest.mark.parametrize("samples", [30, 60, 300])
def test_of_two_equal_sources_the_one_that_began_later_is_told(ordinary, samples):
    pool = of_sources(ordinary(2 * samples, odd=samples), np.repeat(["a", "b"], samples))
    assert said(pool) == ["b"]  # nobody knows when, and it comes later by name
    times = START + np.arange(2 * samples) * np.timedelta64(1, "m")
    times[samples] = np.datetime64("NaT")
    assert said(replace(pool, times=times)) == ["b"]
    assert said(replace(pool, times=times[::-1])) == ["a"]
    others = ["other"] * 10
    assert said(of_sources(ordinary(2 * samples + 10, odd=samples), [*pool.sources, *others])) == [
        "b"
    ]


@pytest.mark.parametrize(("new", "old"), [(30, 31), (290, 310), (310, 290)])
def test_of_two_sources_the_smaller_is_told(ordinary, new, old):
    pool = of_sources(ordinary(new + old, odd=new), ["new"] * new + ["old"] * old)
    assert said(pool) == ["new" if new < old else "old"]


def test_of_many_samples_those_drawn_say_what_is_usual_whatever_their_order(rng):
    """Hundreds of small sources of two kinds in turns, and a larger one that is of the second."""
    levels = {level: 0.1 * rng.normal(size=(10_100, 8)) for level in LEVELS}
    for X in levels.values():
        X[1:10_000:2, 3] += 1
        X[10_000:, 3] += 1
    sources = [*(f"small-{i // 20}" for i in range(10_000)), *["larger"] * 100]
    none = np.empty((10_100, 0), np.float32)
    assert find_unlike(Pool(sources, sources, levels, {}, none, none.astype(int))) == []


def test_sources_of_one_kind_are_not_told(ordinary, rng):
    for count in (2, 3, 5, 40):
        pool = ordinary(600)
        assert said(of_sources(pool, [f"line-{i}" for i in rng.integers(count, size=600)])) == []


def test_sources_that_all_differ_are_not_told_but_one_that_differs_more(ordinary):
    pool = of_sources(ordinary(600), np.repeat([f"line-{i}" for i in range(5)], 120))
    for X in pool.embeddings.values():
        for i in range(5):
            X[120 * i : 120 * (i + 1), 1 + i] += 0.35
    assert said(pool) == []
    for X in pool.embeddings.values():
        X[:120, 1] += 0.5
    assert said(pool) == ["line-0"]


def test_fewer_than_thirty_are_edge_cases_and_a_lone_source_is_what_it_is(ordinary):
    pool = ordinary(600, odd=29)
    assert said(of_sources(pool, ["new"] * 29 + ["old"] * 571)) == []
    assert said(ordinary(600, odd=29)) == []
    constant = {level: np.ones_like(X) for level, X in pool.embeddings.items()}
    assert said(of_sources(replace(pool, embeddings=constant), ["a", "b"] * 300)) == []


def test_one_that_is_farther_out_is_told_where_it_is_twice_as_far_as_the_others(ordinary):
    pool = of_sources(ordinary(600), np.repeat([f"line-{i}" for i in range(5)], 120))
    shown = [pool.embeddings["mid"], pool.embeddings["high"]]
    for X in shown:
        for i in range(5):
            X[120 * i : 120 * (i + 1), 1 + i] += 0.4
        X[:120, 1] += 0.3
    assert find_unlike(pool) == []  # 4.7 deviations out, where the others lie 3
    for X in shown:
        X[:120, 1] += 0.5
    assert [shift.source for shift in find_unlike(pool)] == ["line-0"]


def test_half_of_it_beyond_one_deviation_is_enough(ordinary):
    pool = of_sources(ordinary(600), ["new"] * 100 + ["old"] * 500)
    for X in pool.embeddings.values():
        X[:100, 3] += 0.25
    (shift,) = find_unlike(pool)
    assert 1 <= shift.deviations < 3


def z_of(*values):
    """The same robust deviations at every level."""
    return dict.fromkeys(LEVELS, np.concatenate(values))


def test_a_source_is_held_against_its_own_past(ordinary, rng):
    usual, dirty = rng.normal(size=300), rng.normal(4, 1, size=100)
    pool = of_sources(ordinary(60), ["dirty"] * 60)
    reference = z_of(usual, dirty), ["clean"] * 300 + ["dirty"] * 100
    assert find_shifts(z_of(dirty[:60]), pool, *reference) == []
    (shift,) = find_shifts(z_of(dirty[:60] + 3), pool, *reference)
    assert shift.deviations == pytest.approx(3, abs=0.5)


def shift_of(pool, z):
    (shift,) = find_shifts(z_of(z), pool, z_of(np.linspace(-1, 1, 100)), ["other"] * 100)
    return shift


def test_samples_without_a_time_do_not_say_when_it_began(ordinary):
    pool = ordinary(60, start=START)
    pool.times[50:] = np.datetime64("NaT")
    z = np.r_[np.zeros(10), np.full(40, 5.0), np.full(10, -90.0)]
    assert shift_of(pool, z).since == pool.times[10]
    assert shift_of(replace(pool, times=np.full(60, np.datetime64("NaT"))), z).since is None
    assert shift_of(replace(pool, times=None), z).since is None


def test_the_sample_that_gave_the_time_says_whether_it_was_captured_then(ordinary):
    pool, z = ordinary(60, start=START), np.r_[np.zeros(10), np.full(50, 5.0)]
    for undated, ingested in ((10, True), (11, False)):
        shift = shift_of(replace(pool, undated=np.arange(60) == undated), z)
        assert (shift.since, shift.ingested) == (pool.times[10], ingested)
        assert (", ingested since 2026-03-01T00:10:00" in str(shift)) is ingested


def of_three(ordinary, odd, earlier, start=START):
    """Of 'line-1' the newest `odd` samples have moved, after `earlier` that had not."""
    pool = ordinary(odd + earlier + 1200, odd=odd, start=start)
    times = None if start is None else np.roll(pool.times, odd)
    names = np.repeat(["line-1", "line-2", "line-3"], [odd + earlier, 600, 600])
    return of_sources(replace(pool, times=times), names)


@pytest.mark.parametrize("against", ["the others", "a reference"])
def test_what_a_source_shows_of_late_is_told(against, ordinary):
    """A lens became dirty; most samples of its camera are clean."""
    baseline = None
    pool = of_three(ordinary, odd=100, earlier=600)
    if against == "a reference":
        reference = of_sources(ordinary(900), np.repeat(["line-1", "line-2", "line-3"], 300))
        baseline = fit_reference(reference)
        pool = of_three(partial(ordinary, near=reference), odd=100, earlier=600)
    (shift,) = mine(pool, Policy(Budget(count=20)), baseline).shifts
    assert (shift.source, shift.of) == ("line-1", 700)
    assert shift.samples == pytest.approx(100, abs=5)
    assert abs(shift.since - pool.times[0]) <= np.timedelta64(5, "m")
    assert f": half of the newest {shift.samples} of its 700 samples lie" in str(shift)


@pytest.mark.parametrize(("odd", "start"), [(0, START), (20, START), (100, None)])
def test_of_late_takes_times_and_as_many_samples_as_a_source(odd, start, ordinary):
    assert find_unlike(of_three(ordinary, odd, earlier=600, start=start)) == []


def test_ordinary_sources_show_nothing_else_of_late(ordinary):
    for _ in range(20):
        assert find_unlike(of_three(ordinary, odd=0, earlier=300)) == []


@pytest.mark.parametrize("known", [0, 1, 20])
def test_a_camera_that_the_reference_hardly_knows_is_told(known, ordinary):
    reference = of_sources(ordinary(600, odd=known), ["new"] * known + ["old"] * (600 - known))
    pool = of_sources(ordinary(300, odd=100, near=reference), ["new"] * 100 + ["old"] * 200)
    assert [s.source for s in mine(pool, Policy(), fit_reference(reference)).shifts] == ["new"]
