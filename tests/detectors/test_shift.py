"""Without a reference: a source that is unlike the others."""

from dataclasses import replace

import numpy as np
import pytest

from detectors.findings import Budget, Policy
from detectors.mining import mine

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
