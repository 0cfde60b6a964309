"""Vectors of a person's own, from a Parquet file to flags, answers and datasets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from longtail import Workspace
from schemas.arrow import matrix
from schemas.errors import AuditError, EncoderError, UsageError

Command = Callable[..., Any]
Vectors = NDArray[np.float32]
STRANGE = (7, 30, 41)
MINE = {"encoder": "vectors:my-model", "mining": {"budget": 3}}


def vectors(d: int = 16) -> Vectors:
    """A cluster of vectors, not of unit norm, and three that lie elsewhere."""
    rng = np.random.default_rng(0)
    made = rng.normal(0, 0.1, (60, d)) + np.eye(d)[0]
    made[list(STRANGE)] = 5 * np.eye(d)[[3, 4, 5]]
    return made.astype(np.float32)


def as_lists(made: Any, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array([list(row) for row in made], kind or pa.list_(pa.float32()))


def write(path: Path, uris: list[Any], embedding: pa.Array, **columns: Any) -> Path:
    table = pa.table({"uri": pa.array(uris, pa.string()), "embedding": embedding, **columns})
    pq.write_table(table, path, row_group_size=25)
    return path


@pytest.fixture
def images(tmp_path: Path, make_photographs: Callable[[Path, int], list[Path]]) -> list[str]:
    return [str(path) for path in make_photographs(tmp_path / "images", 60)]


@pytest.fixture
def mine(tmp_path: Path) -> Workspace:
    return Workspace(Workspace.create(tmp_path / "mine").root, MINE)


@pytest.fixture
def mined(mine: Workspace, images: list[str], tmp_path: Path) -> Workspace:
    file = write(tmp_path / "v.parquet", images, as_lists(vectors()), site=["a"] * 60)
    summary = mine.run([str(file)], source="line-3")
    assert (summary.ingested, summary.skipped, summary.rejected) == (60, 0, 0)
    return mine


def test_the_strange_vectors_are_flagged(mined: Workspace, images: list[str]) -> None:
    outliers = mined.flags(kind="outlier")
    assert {flag.uri for flag in outliers} == {images[row] for row in STRANGE}
    report = mined.report()
    assert report is not None
    assert report.read_text().count("data:image/jpeg") >= len(STRANGE), "drawn from the images"


def test_one_level_tells_no_capture_faults(mined: Workspace) -> None:
    Workspace(mined.root, {**MINE, "mining": {"budget": 1}}).mine()
    assert [flag.kind for flag in mined.flags()] == ["outlier"]


def test_what_a_run_by_another_model_said_is_no_news_of_this_one(tmp_path: Path) -> None:
    made = np.random.default_rng(0).normal(0, 0.1, (240, 16)) + np.eye(16)[0]
    made[:60, 3] += 1
    uris, sources = [f"{i}.png" for i in range(240)], ["new"] * 60 + ["old"] * 180
    file = write(tmp_path / "v.parquet", uris, as_lists(made), source=pa.array(sources))
    root = Workspace.create(tmp_path / "two").root

    def said(model: str, budget: int) -> str:
        opened = Workspace(root, {"encoder": f"vectors:{model}", "mining": {"budget": budget}})
        opened.run([str(file)])
        (note,) = [note for note in opened.notes() if "'new'" in note]
        return note

    told = "source 'new' is unlike the others"
    assert said("one", 5).startswith(told)
    assert said("two", 5).startswith(told)
    assert said("one", 6).startswith("source 'new' still lies")


def test_a_sample_is_its_vector_and_what_its_row_says(mined: Workspace, images: list[str]) -> None:
    rows = mined.catalog.samples.read().sort_by("uri")
    assert rows["uri"].to_pylist() == sorted(images)
    order = np.argsort(images)
    expected = vectors()[order]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(matrix(rows["embedding_high"]), expected, atol=1e-6)
    assert set(rows["source"].to_pylist()) == {"line-3"}
    assert set(rows["metadata"].to_pylist()) == {'{"site": "a"}'}
    for name in ("embedding_low", "width", "sharpness", "phash", "thumbnail"):
        assert rows[name].null_count == 60


def test_only_what_is_new_is_taken(mined: Workspace, images: list[str], tmp_path: Path) -> None:
    file = tmp_path / "v.parquet"
    assert mined.run([str(file)]).skipped == 60

    write(file, [*images, "new.png"], as_lists([*vectors(), np.ones(16)]))  # as a nightly export is
    again = mined.run([str(file)])

    assert (again.ingested, again.skipped) == (1, 60)
    uris = mined.catalog.samples.read(["uri"])["uri"].to_pylist()
    assert str(tmp_path / "new.png") in uris, "relative to the file that names it"


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float32(), 16),
        pa.list_(pa.float64()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float16()),
    ],
    ids=str,
)
def test_every_kind_of_list_is_taken(mine: Workspace, tmp_path: Path, kind: pa.DataType) -> None:
    made = vectors()[:5].astype(np.float16)
    file = write(tmp_path / "v.parquet", [f"{i}.png" for i in range(5)], as_lists(made, kind))
    assert mine.ingest([str(file)]).ingested == 5


def test_three_levels_and_a_column_of_another_name(tmp_path: Path) -> None:
    uris = pa.array([f"{i}.png" for i in range(60)])
    table = pa.table(
        {"uri": uris, "clip": as_lists(vectors())}
        | {f"clip_{level}": as_lists(vectors(d=8)) for level in ("low", "mid")}
    )
    pq.write_table(table, tmp_path / "v.parquet")
    root = Workspace.create(tmp_path / "mine").root
    workspace = Workspace(root, {**MINE, "vector_column": "clip"})

    assert workspace.run([str(tmp_path / "v.parquet")]).ingested == 60

    rows = workspace.catalog.samples.read()
    assert matrix(rows["embedding_low"]).shape == (60, 8)
    assert set(rows["metadata"].to_pylist()) == {"{}"}
    assert any("low level" in reason for flag in workspace.flags() for reason in flag.reasons)


def test_bad_vectors_are_refused_and_counted(mine: Workspace, tmp_path: Path) -> None:
    good = [list(row) for row in vectors()[:40]]
    bad = {
        "nan.png": [float("nan")] * 16,
        "infinite.png": [float("inf")] + [0.0] * 15,
        "hole.png": [None] + [1.0] * 15,
        "zero.png": [0.0] * 16,
        "short.png": [1.0] * 15,
        "none.png": None,
        "empty.png": [],
    }
    uris = [*bad, *(f"{i}.png" for i in range(40)), None]
    embedding = pa.array([*bad.values(), *good, good[0]], pa.list_(pa.float32()))
    file = write(tmp_path / "v.parquet", uris, embedding)

    summary = mine.run([str(file)])

    assert (summary.ingested, summary.rejected) == (40, 8)
    rejects = mine.catalog.rejects.read(["uri", "reason", "detail"]).to_pylist()
    details = {Path(row["uri"]).name: row["detail"] for row in rejects}
    assert {row["reason"] for row in rejects if Path(row["uri"]).name in bad} == {"bad_vector"}
    assert details["short.png"] == "high: 15 numbers, not 16"
    assert details["nan.png"] == details["hole.png"] == "high: not finite"
    assert details["v.parquet#row 48"] == "the row names no image"
    again = mine.run([str(file)])
    assert (again.ingested, again.rejected, again.skipped) == (0, 0, 48)


def test_a_source_with_control_characters_is_refused(mine: Workspace, tmp_path: Path) -> None:
    sources = pa.array(["line-3"] * 59 + ["line\n3"])
    file = write(
        tmp_path / "v.parquet", [f"{i}.png" for i in range(60)], as_lists(vectors()), source=sources
    )
    summary = mine.run([str(file)])
    assert (summary.ingested, summary.rejected) == (59, 1)
    (reject,) = mine.catalog.rejects.read(["reason", "detail"]).to_pylist()
    assert reject == {"reason": "bad_source", "detail": r"'line\n3' holds control characters"}


def test_a_file_of_bad_vectors_publishes_nothing(mine: Workspace, tmp_path: Path) -> None:
    made = vectors()[:40]
    made[:30] = np.nan
    file = write(tmp_path / "v.parquet", [f"{i}.png" for i in range(40)], as_lists(made))
    with pytest.raises(AuditError, match="refused: 30 bad_vector"):
        mine.ingest([str(file)])
    assert mine.status()["samples"] == 0


def test_vectors_of_another_length_never_meet(mined: Workspace, tmp_path: Path) -> None:
    other = write(tmp_path / "o.parquet", ["a.png", "b.png"], as_lists(np.ones((2, 8))))
    held = mined.status()["encoder"]
    message = rf"{held}.*vectors:my-model.*\{{'high': 8\}}, not \{{'high': 16\}}"
    with pytest.raises(EncoderError, match=message):
        mined.ingest([str(other)])
    # Another model's stand beside them.
    beside = Workspace(mined.root, {**MINE, "encoder": "vectors:another"})
    assert beside.run([str(other)]).ingested == 2
    assert (beside.status()["samples"], mined.status()["samples"]) == (2, 60)


def test_a_damaged_file_is_a_reject(mine: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "vectors"
    folder.mkdir()
    write(folder / "a.parquet", ["a.png"] * 1, as_lists(np.ones((1, 16))))
    (folder / "b.parquet").write_bytes(b"PAR1 and no more")
    summary = mine.ingest([str(folder)])
    assert (summary.ingested, summary.rejected) == (1, 1)


def test_what_a_damaged_file_holds_is_refused_row_by_row(mine: Workspace, tmp_path: Path) -> None:
    """The first row group and all URIs can be read; the other vectors cannot."""
    folder = tmp_path / "vectors"
    folder.mkdir()
    write(folder / "a.parquet", ["a.png"], as_lists(vectors()[:1]))
    names = [f"{i}.png" for i in range(60)]
    path = write(folder / "b.parquet", names, as_lists(vectors()))
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    assert column.path_in_schema.startswith("embedding")
    damaged = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    damaged[start : start + 200] = bytes(200)
    path.write_bytes(damaged)
    strict, lax = (
        Workspace(mine.root, {**MINE, "limits": {"max_rejected_share": share}})
        for share in (0.4, 0.5)
    )
    with pytest.raises(AuditError, match="rejected"):
        strict.ingest([str(folder)])
    summary = lax.ingest([str(folder)])
    assert (summary.ingested, summary.skipped, summary.rejected) == (36, 0, 25)


def test_a_file_of_something_else_among_good_ones_ends_nothing(
    mine: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "vectors"
    folder.mkdir()
    write(folder / "a.parquet", ["a.png"], as_lists(np.ones((1, 16))))
    pq.write_table(pa.table({"n": [1, 2, 3]}), folder / "b.parquet")
    summary = mine.ingest([str(folder)])
    assert (summary.ingested, summary.rejected) == (1, 1)


def test_queries_go_by_samples(mined: Workspace, images: list[str]) -> None:
    flag = mined.flags(top=1)[0]
    hits = mined.query(sample_id=flag.sample_id, k=3).to_pylist()
    assert hits[0]["uri"] == flag.uri
    for asked in ({"image": images[0]}, {"text": "a crack"}):
        with pytest.raises(EncoderError, match=r"vectors that you bring.*--id"):
            mined.query(**asked)  # type: ignore[arg-type]


def test_what_was_judged_is_curated_from_its_uri(mined: Workspace, images: list[str]) -> None:
    first, second, _ = mined.flags()
    mined.verdict([first.sample_id, second.sample_id], "edge_case", reviewer="me")
    Path(second.uri).unlink()
    result = mined.curate("cracks")
    assert (result["added"], result["rejected"]) == (1, {"unreadable": 1})
    rows = mined.export("cracks", mined.root.parent / "out", "imagefolder")
    assert rows["samples"] == 1


def test_forgotten_uris_are_refused(mined: Workspace, tmp_path: Path) -> None:
    gone = mined.flags(top=1)[0]
    mined.forget([gone.sample_id])
    os.utime(tmp_path / "v.parquet", (1, 1))
    summary = mined.ingest([str(tmp_path / "v.parquet")])
    assert (summary.ingested, summary.rejected) == (0, 1)
    assert mined.status()["samples"] == 59


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"path": ["a.png"], "embedding": [[1.0]]}, r"no column 'uri' \(it has: path, embedding\)"),
        ({"uri": ["a.png"], "clip": [[1.0]]}, r"no column 'embedding'.*vector_column"),
        ({"uri": ["a.png"], "embedding": ["1 2 3"]}, r"holds string, not lists of floats"),
        ({"uri": ["a.png"], "embedding": [[1]]}, r"not lists of floats"),
        ({"uri": ["a.png"], "embedding": [[]]}, r"not lists of floats|holds no vector"),
    ],
)
def test_what_holds_no_vectors_is_told(
    mine: Workspace, tmp_path: Path, columns: dict[str, Any], complaint: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    with pytest.raises(UsageError, match=complaint):
        mine.ingest([str(tmp_path / "v.parquet")])


def test_only_parquet_holds_vectors(mine: Workspace, images: list[str]) -> None:
    with pytest.raises(UsageError, match="no Parquet file"):
        mine.ingest([images[0]])


def test_vectors_are_not_embedded_by_mistake(empty: Workspace, tmp_path: Path) -> None:
    file = write(tmp_path / "v.parquet", ["a.png"], as_lists(np.ones((1, 16))))
    with pytest.raises(UsageError, match=r"holds vectors.*encoder: vectors:NAME"):
        empty.ingest([str(file)])


def test_a_file_without_rows_changes_nothing(mined: Workspace, tmp_path: Path) -> None:
    file = write(tmp_path / "e.parquet", [], as_lists([]))
    summary = mined.run([str(file)])
    assert (summary.ingested, summary.rejected) == (0, 0)


def test_the_command_line(longtail: Command, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    longtail("init", root)
    settings = root / "longtail.yaml"
    settings.write_text(settings.read_text().replace("efficientnet-lite0", "vectors:my-model"))
    assert longtail("status", "-w", root, "--json").json["samples"] == 0
    assert "vectors come with the inputs" in longtail("doctor", "-w", root).out
    file = write(tmp_path / "v.parquet", [f"{i}.png" for i in range(60)], as_lists(vectors()))

    ran = longtail("run", "-w", root, file)

    assert (ran.code, ": 60 ingested, 0 skipped, 0 rejected" in ran.out) == (0, True)
    assert longtail("status", "-w", root, "--json").json["index"]["vectors"] == 60
    flag = longtail("flags", "-w", root, "--json").json[0]["sample_id"]
    told = longtail("explain", "-w", root, flag)
    assert (told.code, "quality" in told.out, "nan" in told.out) == (0, False, False)
    levels = next(line for line in told.out.splitlines() if line.startswith("levels"))
    assert re.fullmatch(r"levels +high [+-][1-9]\S*σ", levels)
    asked = longtail("query", "-w", root, file)
    assert (asked.code, asked.err.count("\n"), "--id" in asked.err) == (2, 1, True)
