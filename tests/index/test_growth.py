"""Random sequences of add, forget, compact, crash, reopen and sweep, against a plain dictionary."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from index.factory import Policy
from index.store import IndexStore

DIMENSION = 8
K = 12


class Growth(RuleBasedStateMachine):
    """The store must hold what the dictionary holds, and answer as exact search over it does."""

    policy = Policy()
    approximate = False
    added = Bundle("added")

    @initialize(seed=st.integers(0, 2**32 - 1))
    def start(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.root = Path(tempfile.mkdtemp())
        self.store = IndexStore(self.root, self.policy)
        self.truth: dict[str, np.ndarray] = {}
        self.count = 0

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def _vectors(self, count: int) -> np.ndarray:
        raw = self.random.standard_normal((count, DIMENSION))
        return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)

    def _segment(self, names: list[str]):
        vectors = self._vectors(len(names))
        return dict(zip(names, vectors, strict=True)), self.store.write_segment(names, vectors)

    def _new_names(self, count: int) -> list[str]:
        self.count += count
        numbers = range(self.count - count, self.count)
        return [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]

    @rule(target=added, count=st.integers(1, 30))
    def add(self, count: int) -> list[str]:
        content, segment = self._segment(self._new_names(count))
        self.store.commit([segment])
        self.truth |= content
        return list(content)

    @rule(names=added)
    def add_again(self, names: list[str]) -> None:
        content, segment = self._segment(names)
        self.store.commit([segment])
        self.truth |= content

    @rule(names=added, share=st.floats(0, 1))
    def forget(self, names: list[str], share: float) -> None:
        gone = names[: round(len(names) * share)]
        self.store.forget(gone)
        for name in gone:
            self.truth.pop(name, None)

    @rule(forgotten=st.booleans())
    def compact(self, forgotten: bool) -> None:
        snapshot = self.store.compact(forgotten=forgotten)
        if snapshot and forgotten:
            assert not any(segment.deleted for segment in snapshot.segments)

    @rule(count=st.integers(1, 30), kept=st.floats(0, 1))
    def crash_while_writing(self, count: int, kept: float) -> None:
        """Files that are cut short, and a snapshot and a pointer that were not renamed yet."""
        _, segment = self._segment(self._new_names(count))
        for name in segment.files:
            content = (self.root / name).read_bytes()
            (self.root / name).write_bytes(content[: round(kept * len(content))])
        for name in ("CURRENT", "snapshot-999.json"):
            (self.root / f"{name}.4242.tmp").write_text("snapsh")
        (self.root / "quantizer-of-nobody.faiss").write_bytes(b"IwS")
        self.store = IndexStore(self.root, self.policy)

    @rule(names=added)
    def crash_while_forgetting(self, names: list[str]) -> None:
        """Half are forgotten; whoever asked asks again for all."""
        self.store.forget(names[: len(names) // 2])
        self.store = IndexStore(self.root, self.policy)
        self.forget(names, 1.0)

    @precondition(lambda self: (self.root / "CURRENT").exists())
    @rule(count=st.integers(1, 30), compacting=st.booleans())
    def crash(self, count: int, compacting: bool) -> None:
        """All was written, but CURRENT had not been replaced yet."""
        current = (self.root / "CURRENT").read_bytes()
        _, segment = self._segment(self._new_names(count))
        if compacting:
            self.store.compact(forgotten=True)
        else:
            self.store.commit([segment])
        (self.root / "CURRENT").write_bytes(current)
        self.store = IndexStore(self.root, self.policy)

    @rule()
    def sweep(self) -> None:
        self.store.sweep(grace_s=0)

    @rule()
    def rebuild(self) -> None:
        if self.truth:
            names = list(self.truth)
            vectors = np.stack([self.truth[name] for name in names])
            self.store.commit([self.store.write_segment(names, vectors)], anew=True)

    @invariant()
    def answers_are_exact(self) -> None:
        snapshot = self.store.open()
        if snapshot is None or not self.truth:
            assert snapshot is None or snapshot.vectors == 0
            return
        assert snapshot.vectors == len(self.truth)
        live = snapshot.live_rows()
        names = snapshot.sample_ids.take(live)
        assert sorted(names) == sorted(self.truth)
        np.testing.assert_array_equal(snapshot.sample_ids.rows(names), live)
        stored = np.stack([self.truth[name] for name in names])
        np.testing.assert_array_equal(snapshot.read(live), stored)

        queries = np.concatenate([stored[:2], self._vectors(1)])
        distances = np.linalg.norm(queries[:, None].astype(float) - stored[None], axis=2)
        chosen = live[self.random.random(len(live)) < 0.5]
        for only, allowed in ((None, live), (chosen, chosen)):
            reachable = min(K, len(allowed))
            truth = np.sort(distances[:, np.isin(live, allowed)], axis=1)[:, :reachable]
            rows, found = snapshot.search(queries, K, only=only, exact=True)
            np.testing.assert_allclose(found[:, :reachable], truth, atol=1e-6)
            assert (rows[:, reachable:] == -1).all()

            rows, found = snapshot.search(queries, K, only=only)
            there = rows >= 0
            assert np.isin(rows[there], allowed).all()
            asked, _ = np.nonzero(there)
            told = distances[asked, np.searchsorted(live, rows[there])]
            np.testing.assert_allclose(found[there], told, atol=1e-6)
            if not self.approximate:
                assert (there.sum(axis=1) == reachable).all()
                np.testing.assert_allclose(found[:, :reachable], truth, atol=1e-6)


class GrowthInCells(Growth):
    """With quantized segments: what is found may be less than all, as much as is promised."""

    policy = Policy(factory="IVF4,SQ8", flat_rows=20)
    approximate = True

    @invariant()
    def the_recall_is_kept(self) -> None:
        """Where nothing is due: before that, status tells for how many the recall stands."""
        snapshot = self.store.open()
        if snapshot is None or self.store.is_due() or snapshot.vectors < 2 * K:
            return
        rows = snapshot.live_rows()
        found, _ = snapshot.neighbours(rows, 10)
        truth, _ = snapshot.neighbours(rows, 10, exact=True)
        shared = (found[:, :, None] == truth[:, None, :]).any(axis=2).mean()
        assert shared >= self.policy.recall - 0.1


TestGrowth = Growth.TestCase
TestGrowthInCells = GrowthInCells.TestCase
TestGrowth.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)
TestGrowthInCells.settings = TestGrowth.settings
