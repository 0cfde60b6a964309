"""A CLIP-like encoder, from the settings to a query by text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf

from longtail import Workspace
from schemas.errors import EncoderError

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
VISION = {**TOWER, "num_attention_heads": 4, "image_size": 64, "patch_size": 16}
TEXT = {**TOWER, "num_attention_heads": 4, "vocab_size": 64, "max_position_embeddings": 16}


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A small CLIP of random weights, as save_pretrained writes one."""
    folder = tmp_path / "clip"
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = hf.CLIPConfig(vision_config=VISION, text_config=TEXT | ends, projection_dim=24)
    hf.CLIPModel(config).save_pretrained(folder)
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    names = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    vocabulary = {token: i for i, token in enumerate(names)}
    hf.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16).save_pretrained(folder)
    hf.CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=64).save_pretrained(folder)
    return folder


def test_a_text_finds_images(clip: Path, photographs: Path, tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "workspace", overrides={"encoder": f"hf:{clip}"})
    workspace.ingest([str(photographs)])
    workspace.index()
    hits = workspace.query(text="a crack", k=5)
    assert hits["rank"].to_pylist() == [1, 2, 3, 4, 5]
    distances = hits["distance"].to_numpy()
    assert (np.diff(distances) >= 0).all()
    assert workspace.query(text="a leaf", k=1)["distance"].to_numpy()[0] != distances[0]


def test_a_trigger_of_words_tells_its_matches_and_learns(
    longtail, clip: Path, photographs: Path, tmp_path: Path
) -> None:
    w = tmp_path / "workspace"
    Workspace.create(w)
    (w / "longtail.yaml").write_text(f"encoder: hf:{clip}\nmining: {{budget: 10}}\n")
    assert longtail("run", "-w", w, photographs).code == 0

    def like_words(count: int) -> list[str]:
        return [hit["sample_id"] for hit in hits[:count]]

    def shown() -> list[str]:
        found = longtail("trigger", "show", "cracks", "-w", w, "--json").json
        return [match["sample_id"] for match in found]

    hits = longtail("query", "-w", w, "--text", "a crack", "-k", 90, "--json").json
    added = longtail("trigger", "add", "cracks", "-w", w, "--text", "a crack")
    assert added.out.startswith("trigger cracks: 1 matching now")
    assert shown() == like_words(1)

    mined = longtail("mine", "-w", w, "--budget", 9)
    assert "note: trigger cracks: 1 new match, " in mined.out
    workspace = Workspace(w)
    report = workspace.report().read_text("utf-8")  # type: ignore[union-attr]
    assert f">{shown()[0][:8]}</figcaption>" in report

    taught = longtail("trigger", "teach", "cracks", "-w", w, "--from", hits[5]["sample_id"])
    assert taught.out.startswith("trigger cracks: 5 matching now")
    assert shown() == like_words(5)  # the example itself is left out
    assert "trigger cracks: 4 new matches" in longtail("mine", "-w", w, "--budget", 8).out
    longtail("verdict", "-w", w, *like_words(5)[2:], "normal")
    assert shown() == like_words(2)


def test_an_encoder_of_images_only_says_so(workspace: Workspace) -> None:
    with pytest.raises(EncoderError, match="embeds images only, no text; CLIP-like models"):
        workspace.query(text="a crack")
