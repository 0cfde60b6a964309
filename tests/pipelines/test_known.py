from __future__ import annotations

from pipelines.known import DigestSet


def test_a_digest_set_holds_what_it_was_given_and_nothing_else() -> None:
    held = DigestSet(f"photos/{i}.jpg" for i in range(20_000))
    assert len(held) == 20_000
    assert all(f"photos/{i}.jpg" in held for i in range(20_000))
    assert not any(f"photos/{i}.png" in held for i in range(20_000))


def test_an_empty_digest_set_holds_nothing() -> None:
    assert "x" not in DigestSet([])
