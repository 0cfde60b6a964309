import numpy as np
import pytest

from detectors.patches import (
    Bank,
    fit_bank,
    k_centre,
    ordinary_half,
    patch_distances,
    patch_scores,
    strangest_places,
)
from schemas.errors import CorruptionError


def test_the_bank_keeps_a_rare_patch_that_a_random_sample_would_lose(rng, unit):
    common = unit(rng.normal([1] + [0] * 15, 0.05, (5_000, 16)))
    rare = unit(rng.normal([0] * 15 + [1], 0.01, (2, 16)))
    patches = np.concatenate([common, rare])
    bank = patches[k_centre(patches, size=20)]
    assert bank.shape == (20, 16)
    assert patch_distances(rare, bank).max() < 0.1


@pytest.mark.parametrize("dimension", [8, 200])
def test_the_bank_covers_better_than_chance(rng, dimension, unit):
    patches = unit(rng.standard_normal((2_000, 4)) @ rng.standard_normal((4, dimension)))
    covered = patch_distances(patches, patches[k_centre(patches, size=100)])
    by_chance = patch_distances(patches, patches[rng.choice(2_000, 100, replace=False)])
    assert covered.max() < 0.8 * by_chance.max()


def test_few_patches_are_all_kept(rng, unit):
    patches = unit(rng.standard_normal((7, 5)))
    np.testing.assert_array_equal(k_centre(patches, size=10), np.arange(7))


def test_distances_are_those_of_the_nearest_of_the_bank(rng, unit):
    bank, patches = unit(rng.standard_normal((50, 6))), unit(rng.standard_normal((3, 4, 4, 6)))
    exact = np.linalg.norm(patches[..., None, :] - bank, axis=-1).min(-1)
    np.testing.assert_allclose(patch_distances(patches, bank), exact, atol=1e-3)
    np.testing.assert_allclose(patch_distances(bank, bank), 0, atol=1e-3)


def test_a_small_defect_decides_the_score(rng):
    distances = rng.uniform(0, 0.1, (4, 14, 14)).astype(np.float32)
    distances[2, 5, 5:8] = [0.9, 1.0, 1.1]
    scores = patch_scores(distances)
    assert scores[2] == pytest.approx(1.0)
    assert scores[[0, 1, 3]].max() < 0.11
    assert patch_scores(distances[:1, :1, :2]).shape == (1,)


@pytest.fixture
def reference(rng, unit):
    """Maps of 6 samples: one direction, but for a spot in the last."""
    maps = unit(rng.normal([1] + [0] * 15, 0.05, (6, 4, 5, 16)))
    maps[5, 1, 3] = np.eye(16)[15]
    return maps, [f"sample-{i}" for i in range(6)]


def test_a_sample_is_never_held_against_itself(reference):
    maps, ids = reference
    bank = fit_bank(maps, ids)
    own, strange = bank.distances(maps, ids)[5], bank.distances(maps, ["other"] * 6)[5]
    assert own[1, 3] > 1.2
    np.testing.assert_allclose(strange, 0, atol=1e-3)
    assert bank.usual < 0.6 < 1.2 < bank.distances(maps, ids).max()
    x, y = strangest_places(bank.distances(maps, ids))
    assert (x[5], y[5]) == pytest.approx((3.5 / 5, 1.5 / 4))


def test_a_bank_is_saved_and_can_forget(reference, tmp_path):
    maps, ids = reference
    bank = fit_bank(maps, ids, size=40)
    bank.save(tmp_path / "bank.npz")
    loaded = Bank.load(tmp_path / "bank.npz")
    np.testing.assert_array_equal(loaded.distances(maps, ids), bank.distances(maps, ids))
    assert loaded.usual == bank.usual
    assert loaded.holds(["sample-5"])
    less = loaded.without(["sample-5"])
    assert not less.holds(["sample-5"])
    assert set(less.owners) == set(ids[:5])
    (tmp_path / "bank.npz").write_bytes(b"PK and no more")
    with pytest.raises(CorruptionError, match=r"bank\.npz' is damaged"):
        Bank.load(tmp_path / "bank.npz")


def test_the_strange_are_left_out_of_a_reference(rng, unit):
    vectors = unit(np.r_[rng.normal([1] + [0] * 7, 0.05, (30, 8)), rng.standard_normal((4, 8))])
    kept = ordinary_half(vectors)
    assert len(kept) == 17
    assert kept.max() < 30
    assert ordinary_half(vectors[:1]).tolist() == [0]
