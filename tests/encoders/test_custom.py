"""An encoder of one's own, in twenty lines, through `module:`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from encoders.base import Encoder
from encoders.registry import describe, load, load_patches
from schemas.errors import EncoderError

PAGE = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text("utf-8")
MINE = (
    PAGE.partition("```python\n")[2].partition("```")[0]
    + """
from dataclasses import replace


class Counted(MeanColour):
    made = 0

    def __init__(self):
        Counted.made += 1


def leaves():
    raise SystemExit(3)


def broken():
    return {}["weights"]


class Wrong(MeanColour):
    gives = None

    def encode(self, pixels):
        return self.gives(super().encode(pixels))

    def encode_patches(self, pixels):
        return super().encode(pixels)["high"]


def wrong(gives):
    encoder = Wrong()
    encoder.gives = gives
    return encoder


ready = MeanColour()
number = 7
a_row_less = wrong(lambda given: given | {"high": given["high"][:-1]})
a_list = wrong(lambda given: list(given.values()))
nothing = wrong(lambda given: None)
no_low = wrong(lambda given: {"high": given["high"]})
lists = wrong(lambda given: {level: vectors.tolist() for level, vectors in given.items()})
texts = wrong(lambda given: given | {"high": given["high"].astype(str)})
raises = wrong(lambda given: given["weights\\nhere"])
ends = wrong(lambda given: leaves())
flat = wrong(lambda given: given)
flat.info = replace(flat.info, dimensions={"low": 3})
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
        ("my_encoders.broken", "cannot be made: KeyError: 'weights'"),
        ("not_python.Encoder", "cannot be made: SyntaxError: expected ':'"),
        ("my_encoders.leaves", "cannot be made: SystemExit: 3; give"),
        ("my_encoders.number", "must have `info`"),
        ("my_encoders.flat", r"dimensions \{'low': 3\} in its `info`; 'high' must be one"),
    ],
)
def test_what_is_no_encoder_is_explained(target: str, complaint: str) -> None:
    with pytest.raises(EncoderError, match=complaint):
        load(f"module:{target}")


WANTED = r"; by its `info` that must be \{'low': \(2, 3\), 'high': \(2, 12\)\}, arrays of floats$"


@pytest.mark.parametrize(
    ("attribute", "complaint"),
    [
        ("a_row_less", r"gave \{'low': \(2, 3\), 'high': \(1, 12\)\} in encode" + WANTED),
        ("a_list", "gave list in encode" + WANTED),
        ("nothing", "gave NoneType in encode" + WANTED),
        ("no_low", r"gave \{'high': \(2, 12\)\} in encode" + WANTED),
        ("lists", r"gave \{'low': 'list', 'high': 'list'\} in encode" + WANTED),
        ("texts", r"gave \{'low': \(2, 3\), 'high': '<U\d+ \(2, 12\)'\} in encode" + WANTED),
        ("raises", r"failed in encode, on 2 images: KeyError: [^\n]*weights[^\n]*$"),
        ("ends", "failed in encode, on 2 images: SystemExit: 3; --debug shows where$"),
    ],
)
def test_a_wrong_answer_names_the_encoder_and_what_it_should_be(
    attribute: str, complaint: str
) -> None:
    spec = f"module:my_encoders.{attribute}"
    with pytest.raises(EncoderError, match=f"^encoder '{spec}' {complaint}"):
        load(spec).encode(np.zeros((2, 64, 64, 3), np.uint8))
    with pytest.raises(EncoderError, match=r"gave \(2, 12\) in .* must be \(2, h, w, d\)"):
        load_patches(spec).encode_patches(np.zeros((2, 64, 64, 3), np.uint8))
