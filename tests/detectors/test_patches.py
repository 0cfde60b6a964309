import numpy as np
import pytest

from detectors.patches import k_centre_bank, patch_distances, patch_scores


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_the_bank_keeps_a_rare_patch_that_a_random_sample_would_lose(rng):
    common = unit(rng.normal([1] + [0] * 15, 0.05, (5_000, 16)))
    rare = unit(rng.normal([0] * 15 + [1], 0.01, (2, 16)))
    bank = k_centre_bank(np.concatenate([common, rare]), size=20)
    assert bank.shape == (20, 16)
    assert patch_distances(rare, bank).max() < 0.1


@pytest.mark.parametrize("dimension", [8, 200])
def test_the_bank_covers_better_than_chance(rng, dimension):
    patches = unit(rng.standard_normal((2_000, 4)) @ rng.standard_normal((4, dimension)))
    covered = patch_distances(patches, k_centre_bank(patches, size=100))
    by_chance = patch_distances(patches, patches[rng.choice(2_000, 100, replace=False)])
    assert covered.max() < 0.8 * by_chance.max()


def test_few_patches_are_all_kept(rng):
    patches = unit(rng.standard_normal((7, 5)))
    np.testing.assert_array_equal(k_centre_bank(patches, size=10), patches)


def test_distances_are_those_of_the_nearest_of_the_bank(rng):
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
