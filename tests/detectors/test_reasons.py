import numpy as np

from detectors import reasons


def test_levels_are_named_with_their_deviations_the_furthest_first():
    z = {"low": np.array([3.2]), "mid": np.array([1.0]), "high": np.array([7.14])}
    assert reasons.level_reasons(z, 0) == [
        "whole object (high level) 7.1σ out",
        "texture and exposure (low level) 3.2σ out",
    ]


def test_a_level_is_told_for_its_kind_where_that_says_more():
    z = {level: np.array([value]) for level, value in (("low", 1.0), ("mid", 4.0), ("high", 0.0))}
    z |= {"low for its kind": np.array([5.0]), "mid for its kind": np.array([3.5])}
    assert reasons.level_reasons(z, 0) == [
        "texture and exposure (low level) 5.0σ out for its kind",
        "parts (mid level) 4.0σ out",
    ]


def test_parts_that_do_not_go_with_the_whole_and_sparse_surroundings_are_told():
    z = {"low": np.zeros(2), "mid": np.zeros(2), "high": np.zeros(2)}
    z |= {"parts": np.array([5.0, 2.9]), "local": np.array([5.5, 3.1])}
    told = "the other levels 5.0σ out for what the scored one shows"
    nearest = "its nearest images {}σ farther than theirs".format
    assert [reasons.level_reasons(z, row) for row in (0, 1)] == [
        [nearest("5.5"), told],
        [nearest("3.1")],
    ]


def test_a_measure_of_groups_is_a_reason_where_it_decided():
    z = {"apart": np.array([8.2, 6.9, 3.4, 6.0]), "crowd": np.array([7.5, 3.4, 9.0, 4.0])}
    z["high"] = np.array([0.0, 9.0, 5.5, 9.0])
    z["remote"] = np.array([2.0, 2.7, 0.0, 3.9])
    score = np.array([8.2, 3.0, 5.5, 4.0])
    apart = "{}σ from the bulk of the pool, alone or with others like it"
    crowd = "its 3 nearest images reach {}σ farther than theirs, alone or with others like it"
    assert [reasons.group_reasons(z, score, row, 3) for row in range(4)] == [
        [apart.format("8.2")],
        [],
        [crowd.format("9.0")],  # and as much as it the scored level
        [apart.format("6.0"), crowd.format("4.0")],  # each alone too little, together enough
    ]
    assert reasons.group_reasons(z, score + 1, 3, 3) == []
    remote = {**z, "apart": np.zeros(4)}
    assert reasons.group_reasons(remote, np.full(4, 3.9), 3, 3) == [
        "3.9σ from the middle of the pool, alone or with others like it"
    ]
    assert reasons.group_reasons({**z, "high": np.full(4, 4.9)}, score - 1, 2, 3) == []


def test_isolation_is_a_reason_only_beyond_the_usual_range():
    isolation = np.r_[np.full(999, 0.2), 0.61]
    assert reasons.isolation_reasons(isolation, 0, 5) == []
    assert reasons.isolation_reasons(isolation, 999, 5) == [
        "5 nearest images 0.61 away, farther than for 99.9% of the pool"
    ]


def test_quality_is_judged_within_the_source():
    day, night = np.linspace(0.6, 0.9, 400), np.linspace(0.1, 0.2, 400)
    brightness = np.r_[day, night, 0.3, 0.05]
    usual = reasons.UsualRange(
        ["day"] * 400 + ["night"] * 400 + ["day", "night"], {"brightness": brightness}
    )
    assert usual.reasons(800) == ["darker than 99.7% of day"]
    assert usual.reasons(801) == ["darker than 99.7% of night"]
    assert usual.reasons(600) == []


def test_a_small_or_unnamed_source_is_judged_among_all_images():
    brightness = np.r_[np.linspace(0.4, 0.6, 300), 0.99]
    usual = reasons.UsualRange([""] * 300 + ["new"], {"brightness": brightness})
    assert usual.reasons(300) == ["brighter than 99.6% of all images"]


def test_unknown_and_constant_quality_gives_no_reason():
    quality = {"sharpness": np.full(200, 0.5), "contrast": np.r_[np.nan, np.linspace(0, 1, 199)]}
    assert reasons.UsualRange(["a"] * 200, quality).reasons(0) == []
