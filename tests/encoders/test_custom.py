"""An encoder of one's own, in twenty lines, through `module:`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from encoders.base import Encoder
from encoders.registry import describe, load
from schemas.errors import EncoderError

PAGE = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text("utf-8")
MINE = (
    PAGE.partition("```python\n")[2].partition("```")[0]
    + """

class Counted(MeanColour):
    made = 0

    def __init__(self):
        Counted.made += 1


def broken():
    return {}["weights"]


ready = MeanColour()
number = 7
"""
)


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_encoders.py").write_text(MINE)
    (tmp_path / "not_python.py").write_text("class Encoder\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_encoders", raising=False)


@pytest.mark.parametrize("attribute", ["MeanColour", "ready"])
def test_a_class_or_an_object_is_an_encoder(attribute: str) -> None:
    spec = f"module:my_encoders.{attribute}"
    assert describe(spec).id.startswith("mean-colour-")
    red = np.zeros((2, 64, 64, 3), np.uint8)
    red[..., 0] = 255
    low = load(spec).encode(red)["low"]
    np.testing.assert_allclose(low, [[1, 0, 0]] * 2, atol=0.01)


def test_its_precision_is_its_own(batches_agree: Callable[[Encoder], None]) -> None:
    spec = "module:my_encoders.ready"
    batches_agree(load(spec, precision="fp32"))
    for made in (describe, load):
        with pytest.raises(
            EncoderError, match=r"computes in fp32 by itself; set 'precision: auto'"
        ):
            made(spec, precision="bf16")


def test_it_is_made_once() -> None:
    spec = "module:my_encoders.Counted"
    assert describe(spec) == describe(spec) == load(spec).info
    assert sys.modules["my_encoders"].Counted.made == 1


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("my_encoders.Missing", "has no attribute 'Missing'"),
        ("no_such_package.Encoder", "No module named 'no_such_package'"),
        ("nodot", "cannot be made"),
        ("my_encoders.broken", "cannot be made: 'weights'"),
        ("not_python.Encoder", "cannot be made: expected ':'"),
        ("my_encoders.number", "must have `info`"),
    ],
)
def test_what_is_no_encoder_is_explained(target: str, complaint: str) -> None:
    with pytest.raises(EncoderError, match=complaint):
        load(f"module:{target}")
