"""Filters, examples, near-duplicates, forgetting and the index's maintenance, on a workspace."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from longtail import Workspace
from longtail.filters import Filter
from schemas.arrow import matrix
from schemas.errors import NotFoundError, UsageError

EARLIEST = datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))
LATEST = datetime.max.replace(tzinfo=timezone(timedelta(hours=-14)))


@pytest.fixture
def some(workspace: Workspace) -> list[str]:
    """Ids of all samples, the ranked flags first."""
    flagged = [flag.sample_id for flag in workspace.flags()]
    rest = workspace.catalog.samples.read(["sample_id"])["sample_id"].to_pylist()
    return list(dict.fromkeys([*flagged, *sorted(rest)]))


def test_filters_keep_what_they_say(workspace: Workspace, some: list[str]) -> None:
    def found(**asked: object) -> set[str]:
        hits = workspace.query(sample_id=some[0], k=90, where=Filter(**asked))  # type: ignore[arg-type]
        return set(hits["sample_id"].to_pylist())

    flagged = {flag.sample_id for flag in workspace.flags()}
    assert found(flagged=True) == flagged
    assert found(flagged=False) == set(some) - flagged
    assert found(source="line-3") == set(some)
    assert found(source="elsewhere") == set()
    for year in (1, 206, 1990):
        assert found(until=datetime(year, 5, 26, tzinfo=UTC)) == set()
        assert found(since=datetime(year, 5, 26, tzinfo=UTC)) == set(some)
    workspace.verdict(some[3:5], "edge_case")
    assert found(verdict="edge_case") == set(some[3:5])
    assert found(verdict="edge_case", flagged=False) == set(some[3:5]) - flagged
    workspace.curate("cracks")
    assert found(dataset="cracks") == set(some[3:5])
    table = workspace.catalog.samples.read(["sample_id", "brightness"])
    middle = sum(sorted(table["brightness"].to_pylist())[44:46]) / 2
    dark = {row["sample_id"] for row in table.to_pylist() if row["brightness"] < middle}
    assert found(quality=(f"brightness<{middle:.9f}",)) == dark


def test_wrong_filters_are_named(workspace: Workspace, some: list[str]) -> None:
    for wrong in ("loudness>3", "sharpness<1e", "sharpness<--", "sharpness<."):
        with pytest.raises(UsageError, match=f"'{wrong}' is no comparison"):
            workspace.query(sample_id=some[0], where=Filter(quality=(wrong,)))
    for right in ("sharpness<1e9", "sharpness < +999999.", "sharpness>=-.5E-3"):
        assert len(workspace.query(sample_id=some[0], where=Filter(quality=(right,))))
    for name, time in (("since", EARLIEST), ("until", LATEST)):
        with pytest.raises(UsageError, match=f"{time:%d}.* is not in the years 1 to 9999 of UTC"):
            workspace.query(sample_id=some[0], where=Filter(**{name: time}))  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="no dataset 'none'"):
        workspace.query(sample_id=some[0], where=Filter(dataset="none"))


def test_examples_and_counterexamples(workspace: Workspace, some: list[str]) -> None:
    both = workspace.query(sample_id=some[:2], k=90)
    assert both["sample_id"].to_pylist()[:2] in (some[:2], some[1::-1])
    assert both["distance"].to_pylist()[:2] == [0.0, 0.0]
    unlike = workspace.query(sample_id=some[0], unlike=[some[1]], k=90)
    assert some[1] not in unlike["sample_id"].to_pylist()
    assert len(unlike) < 90
    assert workspace.query(sample_id=some[0], unlike=some[1][:12], k=90) == unlike
    file = Path(workspace.query(sample_id=some[1], k=1)["uri"][0].as_py())
    assert workspace.query(sample_id=some[0], unlike=file, k=90) == unlike
    near = workspace.query(sample_id=some[0], k=90, within=float(both["distance"][40].as_py()))
    assert 0 < len(near) < 90


def test_each_level_finds_its_own_neighbours(
    workspace: Workspace, some: list[str], longtail, tmp_path: Path
) -> None:
    stored = workspace.catalog.samples.read(["sample_id", "uri", "embedding_low"]).to_pylist()
    vectors = {row["sample_id"]: np.array(row["embedding_low"]) for row in stored}
    distances = {name: np.linalg.norm(vectors[name] - vectors[some[0]]) for name in some}

    low = workspace.query(sample_id=some[0], k=90, level="low")

    assert low["distance"].to_pylist() == pytest.approx(sorted(distances.values()), abs=1e-6)
    assert low["sample_id"][0].as_py() == some[0]
    assert low["uri"].to_pylist()[0] in {row["uri"] for row in stored}
    other = workspace.query(sample_id=some[0], k=90)
    assert low["sample_id"].to_pylist() != other["sample_id"].to_pylist()
    far = workspace.query(sample_id=some[0], unlike=[some[1]], k=5, level="mid")
    assert some[1] not in far["sample_id"].to_pylist()

    moved = Path(shutil.copy(stored[3]["uri"], tmp_path))
    with Image.open(moved) as image:
        image.rotate(180).save(moved)  # new content, of the same texture
    told = longtail("query", "-w", workspace.root, moved, "--level", "low", "-k", 1, "--json")
    assert told.json[0]["sample_id"] == stored[3]["sample_id"]
    workspace.forget([some[0]])
    left = workspace.query(sample_id=some[1], k=90, level="low")["sample_id"].to_pylist()
    assert sorted(left) == sorted(some[1:])
    assert (
        "leave out the level"
        in longtail("query", "-w", workspace.root, "--text", "a crack", "--level", "low").err
    )


def test_forgotten_samples_are_gone_and_refused(
    workspace: Workspace, some: list[str], photographs: Path
) -> None:
    gone = some[0]
    workspace.verdict([gone], "edge_case")
    workspace.curate("cracks")
    report = workspace.report()

    assert workspace.forget([gone[:12]]) == [gone]

    assert report is not None
    assert not report.exists()
    state = workspace.status()
    assert (state["samples"], state["index"]["vectors"]) == (89, 89)
    assert gone not in [flag.sample_id for flag in workspace.flags()]
    for table in (workspace.catalog.samples, workspace.catalog.uris, workspace.catalog.scores):
        assert gone not in table.read(["sample_id"])["sample_id"].to_pylist()
    with pytest.raises(NotFoundError):
        workspace.query(sample_id=gone)
    hits = workspace.query(sample_id=some[1], k=90)
    assert gone not in hits["sample_id"].to_pylist()
    assert workspace.verify_index().ok

    again = workspace.run([str(photographs)])
    assert (again.ingested, again.rejected) == (0, 1)
    assert workspace.run([str(photographs)]).rejected == 0

    workspace.forget([gone], undo=True)
    assert workspace.ingest([str(photographs)]).ingested == 1


def test_a_vacuum_takes_the_forgotten_off_the_disk(
    workspace: Workspace, some: list[str], longtail, tmp_path: Path
) -> None:
    """Looked for in the bytes of every file of the workspace, before and after."""
    flags, note = workspace.flags(), "a face at the window"
    called = {flag.sample_id for flag in flags}
    gone = next(n.sample_id for f in flags for n in f.nearest if n.sample_id not in called)
    workspace.verdict([gone], "edge_case", note=note)
    workspace.verdict([some[0]], "edge_case")
    workspace.curate("cracks")
    workspace.report()
    mine = ds.field("sample_id") == gone
    (row,) = workspace.catalog.samples.read(where=mine).to_pylist()
    image = Path(row["uri"]).read_bytes()
    traces = {
        "thumbnail": row["thumbnail"],
        "thumbnail in a report": base64.b64encode(row["thumbnail"]),
        "image": image,
        "vector": np.asarray(row["embedding_high"], np.float32).tobytes(),
        "part of a vector": np.asarray(row["embedding_low"][:6], np.float32).tobytes(),
        "place": row["uri"].encode(),
        "digest": bytes.fromhex(gone),
        "note": note.encode(),
    }
    assert set(left_of(traces, workspace.root)) == set(traces)

    longtail("forget", "-w", workspace.root, gone)
    assert "MB freed" in longtail("vacuum", "-w", workspace.root).out

    assert left_of(traces, workspace.root) == []
    assert files_with(gone, workspace.root) == {"tables/forgotten"}
    assert len(workspace.flags()) == len(flags)
    assert workspace.verify_index().ok
    assert workspace.export("cracks", tmp_path / "out")["samples"] == 1
    told = longtail("export", "-w", workspace.root, "cracks", tmp_path / "old", "--version", 0)
    assert told.code == 2
    assert "a vacuum removed it" in told.err


def left_of(traces: dict[str, bytes], root: Path) -> list[str]:
    """Which of them stand in a file, Parquet's pages unpacked."""
    contents = [content for _, content in unpacked(root)]
    return [name for name, trace in traces.items() if any(trace in each for each in contents)]


def files_with(sample_id: str, root: Path) -> set[str]:
    """The folders below `root` with a file that names the sample."""
    found = (path for path, content in unpacked(root) if sample_id.encode() in content)
    return {path.relative_to(root).parent.as_posix() for path in found}


def unpacked(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Each file's bytes; of a Parquet file those of its columns, as nothing packs them."""
    for path in root.rglob("*"):
        if path.suffix == ".parquet":
            plain = io.BytesIO()
            plainly = {"compression": "none", "use_dictionary": False}
            pq.write_table(pq.ParquetFile(path).read(), plain, **plainly)
            yield path, plain.getvalue()
        elif path.is_file():
            yield path, path.read_bytes()


def test_no_flag_names_a_forgotten_sample(workspace: Workspace) -> None:
    flags = workspace.flags()
    called = {flag.sample_id for flag in flags}
    gone = next(n.sample_id for f in flags for n in f.nearest if n.sample_id not in called)

    workspace.forget([gone])

    left = workspace.flags()
    assert [flag.sample_id for flag in left] == [flag.sample_id for flag in flags]
    assert gone not in {near.sample_id for flag in left for near in flag.nearest}
    report = workspace.report()
    assert report is not None
    assert gone not in report.read_text("utf-8")


def test_an_open_workspace_answers_from_the_newest_commit(
    workspace: Workspace, some: list[str]
) -> None:
    """Another process forgets and compacts while this one goes on asking."""
    table = workspace.catalog.samples.read(["sample_id", "uri"])
    uris = dict(zip(table["sample_id"].to_pylist(), table["uri"].to_pylist(), strict=True))
    other = Workspace(workspace.root)

    def answered() -> list[str]:
        for _ in range(2):  # from the second question on, URIs come from memory
            hits = workspace.query(sample_id=some[0], k=90)
        ids: list[str] = hits["sample_id"].to_pylist()
        assert hits["uri"].to_pylist() == [uris[sample_id] for sample_id in ids]
        return ids

    assert set(answered()) == set(some)
    other.forget(some[3:6])
    assert set(answered()) == set(some) - set(some[3:6])
    other.compact_index()
    assert set(answered()) == set(some) - set(some[3:6])
    other.forget([some[0]])
    with pytest.raises(NotFoundError):
        workspace.query(sample_id=some[0])


def test_a_whole_source_is_forgotten_and_can_be_run_again(
    workspace: Workspace, photographs: Path
) -> None:
    assert workspace.forget(source="elsewhere") == []
    assert len(workspace.forget(source="line-3")) == 90
    assert workspace.status()["samples"] == 0
    assert workspace.ingest([str(photographs)]).rejected == 90


def test_compaction_takes_the_forgotten_out_of_the_files(
    workspace: Workspace, some: list[str]
) -> None:
    workspace.forget(some[:3])
    state = workspace.compact_index()
    assert (state["vectors"], state["segments"]) == (87, 1)
    snapshot = workspace.jobs.index_store.open()
    assert snapshot is not None
    assert len(snapshot.sample_ids) == 87


def test_mining_goes_on_after_forgetting(workspace: Workspace, some: list[str]) -> None:
    workspace.forget(some[:5])
    workspace.mine()
    assert len(workspace.flags(kind="outlier")) == 10
    assert not {flag.sample_id for flag in workspace.flags()} & set(some[:5])


def test_verify_finds_damage_and_rebuild_mends_it(workspace: Workspace, longtail) -> None:
    store = workspace.jobs.index_store
    (path,) = store.root.glob("*.vectors.faiss")
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    told = longtail("index", "verify", "-w", workspace.root)
    assert told.code == 1
    assert path.name in told.err
    assert "longtail index rebuild" in told.err
    path.write_bytes(b"foreign")
    told = longtail("query", "--id", "000000", "-w", workspace.root)
    assert told.code == 1
    assert path.name in told.err
    assert longtail("index", "rebuild", "-w", workspace.root).code == 0
    assert "agrees" in longtail("index", "verify", "-w", workspace.root).out


def test_duplicates_are_listed_with_their_representative(workspace: Workspace, longtail) -> None:
    groups = longtail("duplicates", "-w", workspace.root, "--within", "2", "--json").json
    members = [member for group in groups for member in group]
    assert len({member["sample_id"] for member in members}) == len(members) > 1
    assert all(group[0]["distance"] == 0.0 for group in groups)
    assert longtail("duplicates", "-w", workspace.root, "--within", "0", "--json").json == []


def test_forget_needs_to_know_what(workspace: Workspace, longtail) -> None:
    told = longtail("forget", "-w", workspace.root)
    assert told.code == 2
    assert "--source" in told.err


def stored(workspace: Workspace, sample_ids: list[str]) -> np.ndarray:
    """Their vectors (n, d) of the level `high`, as the samples table holds them."""
    table = workspace.catalog.samples.read(["sample_id", "embedding_high"])
    vectors = dict(
        zip(table["sample_id"].to_pylist(), matrix(table["embedding_high"]), strict=True)
    )
    return np.array([vectors[sample_id] for sample_id in sample_ids])


def test_a_vector_of_any_length_asks_as_its_sample_does(
    workspace: Workspace, some: list[str], longtail, tmp_path: Path
) -> None:
    vectors = stored(workspace, some[:2])
    by_id = workspace.query(sample_id=some[:2], k=9)
    by_vector = workspace.query(vector=vectors, k=9)
    assert by_vector.drop_columns("distance") == by_id.drop_columns("distance")
    np.testing.assert_allclose(by_vector["distance"], by_id["distance"], atol=1e-6)
    assert workspace.query(vector=(7 * vectors[0]).tolist(), k=1)["distance"].to_pylist() == (
        pytest.approx([0], abs=1e-6)
    )
    assert workspace.query(vector=vectors[0], unlike=[some[1]], k=9) == workspace.query(
        sample_id=some[0], unlike=[some[1]], k=9
    )
    np.save(tmp_path / "two.npy", vectors)
    told = longtail(
        "query", "-w", workspace.root, "--vector", tmp_path / "two.npy", "-k", 9, "--json"
    )
    assert told.json == by_vector.to_pylist()


@pytest.mark.parametrize(
    ("vector", "said"),
    [
        ([1.0, 2.0], r"shape \(1, 2\) is no example; those of level 'high' have 320 numbers"),
        (np.zeros(320), "vector 0 has length 0"),
        (np.full((2, 320), np.nan), "vector 0 has length nan"),
        (np.full(320, 1e300), "vector 0 has length inf"),
        (["a"] * 320, "not of numbers alone"),
        ([[1, 2], [3]], "not of numbers alone"),
        (np.full(320, 1 + 1j), "of complex128 numbers; give real ones"),
    ],
)
def test_a_vector_that_is_none_is_told(workspace: Workspace, vector: object, said: str) -> None:
    for ask in (workspace.query, workspace.query_each):
        with pytest.raises(UsageError, match=said):
            ask(vector=vector)  # type: ignore[operator]


def test_each_example_by_itself_is_answered_as_if_asked_alone(
    workspace: Workspace, some: list[str], longtail, tmp_path: Path
) -> None:
    vectors = stored(workspace, some[2:4])
    asked = {"k": 5, "where": Filter(flagged=False), "within": 0.9}
    told = workspace.query_each(sample_id=[some[0], some[1][:10]], vector=vectors, **asked)
    alone = [workspace.query(sample_id=sample_id, **asked).to_pylist() for sample_id in some[:4]]
    each = [{"query": number, **hit} for number, hits in enumerate(alone) for hit in hits]
    assert len(each) > 5
    assert told.drop_columns("distance").to_pylist() == [
        {name: value for name, value in hit.items() if name != "distance"} for hit in each
    ]
    assert told["distance"].to_pylist() == pytest.approx([hit["distance"] for hit in each])
    low = workspace.query_each(sample_id=some[:2], k=3, level="low")
    assert low["query"].to_pylist() == [0, 0, 0, 1, 1, 1]

    np.save(tmp_path / "two.npy", vectors)
    ask = ("query", "-w", workspace.root, "--vector", tmp_path / "two.npy", "--each", "-k", 1)
    found = [hit["sample_id"] for hit in longtail(*ask, "--json").json]
    assert found == some[2:4]
    assert longtail(*ask).out.split()[:3] == ["query", "rank", "sample"]
    refused = longtail(*ask, "--unlike", some[0])
    assert (refused.code, "leave out --text" in refused.err) == (2, True)
    for content in ("1 2 3", "", "PK\x03\x04"):
        (tmp_path / "two.npy").write_text(content)
        refused = longtail(*ask)
        assert (refused.code, "no .npy file of numbers" in refused.err) == (2, True)
    (tmp_path / "two.npy").unlink()
    assert "cannot be read: No such file" in longtail(*ask).err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"k": 0}, "k is 0; ask for 1 or more"),
        ({"k": -1}, "k is -1"),
        ({"within": -0.1}, r"within is -0.1; distances between unit vectors lie in \[0, 2\]"),
        ({"within": float("nan")}, "within is nan"),
        ({"apart": 2.5}, "apart is 2.5"),
        ({"where": Filter(verdict="odd")}, "'odd' is no verdict; take one of edge_case"),  # type: ignore[arg-type]
    ],
)
def test_a_number_out_of_range_is_told(
    workspace: Workspace, some: list[str], asked: dict, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        workspace.query(sample_id=some[0], **asked)
    with pytest.raises(UsageError, match="within is 3"):
        workspace.duplicates(within=3)


def test_a_filter_follows_what_it_reads(workspace: Workspace, some: list[str]) -> None:
    """Asked again and again in one process, while verdicts, datasets and samples change."""

    def found(**asked: object) -> set[str]:
        hits = workspace.query(sample_id=some[0], k=90, where=Filter(**asked))  # type: ignore[arg-type]
        return set(hits["sample_id"].to_pylist())

    for count in (1, 2, 3):
        workspace.verdict(some[count : count + 1], "edge_case")
        assert found(verdict="edge_case") == set(some[1 : count + 1])
        workspace.curate("cracks")
        assert found(dataset="cracks") == set(some[1 : count + 1])
        assert found(source="line-3", verdict="edge_case") == set(some[1 : count + 1])
    assert found(verdict="normal") == set()
    workspace.forget(some[1:3])
    assert found(source="line-3") == {some[0], *some[3:]}
    assert found(verdict="edge_case") == {some[3]}
