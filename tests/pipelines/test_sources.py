"""Listing and reading images through the door: `open_source`, `read`, `locate`."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apache_beam as beam
import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image

from pipelines.sources import locate, open_source, read
from pipelines.sources.files import list_files
from schemas.errors import ImageError, NotFoundError, UsageError
from schemas.records import ImageRef


def listed(inputs: Sequence[str | Path], source: str = "", **options: Any) -> list[ImageRef]:
    """The references that a pipeline gives for `inputs`, by URI."""
    with tempfile.NamedTemporaryFile() as collected:
        p = beam.Pipeline(runner=FnApiRunner())
        _ = (
            p
            | open_source([str(path) for path in inputs], source, **options)
            | beam.combiners.ToList()
            | beam.Map(
                lambda refs, path: Path(path).write_bytes(pickle.dumps(refs)), collected.name
            )
        )
        p.run().wait_until_finish()
        refs: list[ImageRef] = pickle.load(collected)
    for ref in refs:
        json.dumps(ref.metadata, allow_nan=False)
        ref.uri.encode()
    return sorted(refs, key=lambda ref: ref.uri)


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def tar_bytes(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_700_000_000
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def hf_parquet(path: Path, count: int, **columns: list[Any]) -> Path:
    """`count` images as Hugging Face datasets writes them, three to a row group."""
    images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(count)]
    features = datasets.Features(
        {"image": datasets.Image()} | {name: datasets.Value("int64") for name in columns}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_dict({"image": images, **columns}, features=features)
    data.to_parquet(path, batch_size=3)
    return path


@pytest.fixture
def in_new_york() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


class TestFiles:
    def test_a_folder_gives_every_file_below_it_with_size_and_time(self, tmp_path: Path) -> None:
        photo = write(tmp_path / "photos/a.png", png(1))
        deep = write(tmp_path / "photos/day 1/[x]/b#2.PNG", png(2))
        os.utime(photo, (0, 1_700_000_000.25))
        assert listed([tmp_path / "photos"], "line-3") == [
            ImageRef(str(photo), "line-3", size=len(png(1)), modified_at=1_700_000_000.25),
            ImageRef(str(deep), "line-3", size=len(png(2)), modified_at=deep.stat().st_mtime),
        ]

    def test_annotations_and_hidden_files_are_left_out_and_other_files_are_not(
        self, tmp_path: Path
    ) -> None:
        for name in ("a.png", "a.json", "b.xml", "labels.csv", ".hidden.png", ".cache/c.png"):
            write(tmp_path / name, png(1))
        write(tmp_path / "notes.txt", "not an image: it is for the decoder to say so")
        names = [Path(ref.uri).name for ref in listed([tmp_path])]
        assert names == ["a.png", "notes.txt"]

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("*.png", ["a.png"]),
            ("**/*.png", ["a.png", "x/b.png", "x/y/c.png"]),
            ("x/**", ["x/b.jpg", "x/b.png", "x/y/c.png"]),
            ("*/?.[jp]*g", ["x/b.jpg", "x/b.png"]),
            ("x/**/[!b].png", ["x/y/c.png"]),
            ("{a,x/b}.png", ["a.png", "x/b.png"]),
        ],
    )
    def test_globs_match_alike_on_disk_and_in_an_object_store(
        self,
        tmp_path: Path,
        s3: Callable[[str, bytes], str],
        pattern: str,
        expected: list[str],
    ) -> None:
        for name in ("a.png", "x/b.png", "x/b.jpg", "x/y/c.png", "x/.d.png"):
            write(tmp_path / name, png(1))
            s3(f"in/{name}", png(1))
        for root in (str(tmp_path), "s3://photos/in"):
            uris = [ref.uri for ref in listed([f"{root}/{pattern}"])]
            assert uris == [f"{root}/{name}" for name in expected]

    def test_a_file_is_named_the_same_from_every_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        photo = write(tmp_path / "sub/a b.png", png(1))
        monkeypatch.chdir(tmp_path)
        from_above = listed(["sub/a b.png"])
        monkeypatch.chdir(tmp_path / "sub")
        assert listed(["./a b.png"]) == listed(["../sub"]) == listed([photo.as_uri()]) == from_above
        assert from_above[0].uri == str(photo)

    def test_linked_folders_are_followed_once_even_in_a_loop(self, tmp_path: Path) -> None:
        write(tmp_path / "real/a.png", png(1))
        (tmp_path / "in").mkdir()
        (tmp_path / "in/link").symlink_to(tmp_path / "real")
        (tmp_path / "real/loop").symlink_to(tmp_path / "in")
        assert [ref.uri for ref in listed([tmp_path / "in"])] == [f"{tmp_path}/in/link/a.png"]

    def test_a_link_that_leads_nowhere_is_a_reject_and_hides_nothing(self, tmp_path: Path) -> None:
        photo = write(tmp_path / "a.png", png(1))
        (tmp_path / "broken.png").symlink_to("gone.png")
        (tmp_path / "loop.png").symlink_to("loop.png")
        os.mkfifo(tmp_path / "pipe.png")
        good, *links = listed([tmp_path])
        assert good.uri == str(photo)
        assert [Path(ref.uri).name for ref in links] == ["broken.png", "loop.png"]
        for ref in links:
            with pytest.raises(ImageError, match="unreadable"):
                read(ref)

    def test_a_folder_is_listed_one_file_at_a_time(self, tmp_path: Path) -> None:
        for name in ("a/1.png", "b/1.png"):
            write(tmp_path / name, png(1))
        refs = list_files(str(tmp_path))
        first = Path(next(refs).uri)
        other = next(folder for folder in tmp_path.iterdir() if folder != first.parent)
        (other / "1.png").unlink()
        other.rmdir()
        (lost,) = refs
        assert lost.uri == str(other)
        with pytest.raises(ImageError, match="unreadable"):
            read(lost)

    def test_a_name_that_is_no_utf8_is_refused_and_ends_nothing(self, tmp_path: Path) -> None:
        write(tmp_path / "good.png", png(1))
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png")).write_bytes(png(2))
        bad, good = listed([tmp_path])
        assert read(good) == png(1)
        assert bad.uri.endswith(r"bad\udcff.png")
        with pytest.raises(ImageError, match="unreadable"):
            read(bad)

    def test_a_name_that_exists_is_no_pattern(self, tmp_path: Path) -> None:
        photo = write(tmp_path / "{a,b} [1]/c*.png", png(1))
        assert [ref.uri for ref in listed([photo.parent])] == [str(photo)]
        assert [ref.uri for ref in listed([photo])] == [str(photo)]

    def test_an_empty_folder_has_nothing_new(self, tmp_path: Path) -> None:
        assert listed([tmp_path]) == []


class TestObjectStore:
    def test_a_prefix_is_a_folder_and_reads_as_one(self, s3: Callable[[str, bytes], str]) -> None:
        uris = [s3("cam 1/a.png", png(1)), s3("cam 1/day/b.png", png(2))]
        s3("cam 1/", b"")  # the marker that consoles leave
        s3("cam 10/c.png", png(3))
        refs = listed(["s3://photos/cam 1"], "yard")
        assert [(ref.uri, ref.source, ref.size) for ref in refs] == [
            (uris[0], "yard", len(png(1))),
            (uris[1], "yard", len(png(2))),
        ]
        assert [read(ref) for ref in refs] == [png(1), png(2)]

    def test_listing_and_asking_agree_on_size_and_time(
        self, s3: Callable[[str, bytes], str]
    ) -> None:
        """Otherwise an image named by a manifest would look new beside the same one in a folder."""
        uri = s3("a.png", png(1))
        assert listed(["s3://photos/"]) == listed([uri]) == [locate(uri)]

    def test_members_of_a_shard_are_read_in_place(self, s3: Callable[[str, bytes], str]) -> None:
        url = s3("shard.tar", tar_bytes({"a.png": png(1), "b.png": png(2)}))
        refs = listed([url])
        assert [ref.uri for ref in refs] == [f"{url}#a.png", f"{url}#b.png"]
        assert [read(ref) for ref in refs] == [png(1), png(2)]

    def test_a_manifest_names_neighbours(self, s3: Callable[[str, bytes], str]) -> None:
        uri = s3("sets/1/a.png", png(1))
        s3("sets/lists/m.csv", b"uri,site\n../1/a.png,north\n../1/gone.png,north\n")
        found, gone = listed(["s3://photos/sets/lists/m.csv"])
        assert (found.uri, found.metadata, read(found)) == (uri, {"site": "north"}, png(1))
        with pytest.raises(ImageError, match="unreadable"):
            read(gone)

    def test_parquet_is_read_from_the_store(
        self, s3: Callable[[str, bytes], str], tmp_path: Path
    ) -> None:
        url = s3("train.parquet", hf_parquet(tmp_path / "t.parquet", 7).read_bytes())
        assert [read(ref) for ref in listed([url])] == [png(i) for i in range(7)]

    @pytest.mark.parametrize("url", ["s3://photos/none/", "s3://photos/none.png"])
    def test_what_is_not_there_is_said(self, s3: Callable[[str, bytes], str], url: str) -> None:
        s3("a.png", png(1))
        with pytest.raises(NotFoundError, match=url):
            open_source([url])

    def test_a_store_that_cannot_be_reached_is_the_persons_to_mend(
        self, s3: Callable[[str, bytes], str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(UsageError, match=r"cannot read 'gopher://photos/'.*longtail\[aws\]"):
            open_source(["gopher://photos/"])


class TestManifest:
    ROWS = (
        {"uri": "img/a.png", "source": "cam-1", "captured_at": "2026-05-01T12:00:00", "n": "1"},
        {"uri": "img/b.png", "source": "", "captured_at": "2026-05-01T12:00:00+02:00", "n": ""},
        {"uri": "img/c.png", "source": "", "captured_at": "last Tuesday", "n": "3"},
    )

    def expected(self, folder: Path) -> list[ImageRef]:
        def ref(name: str, *said: Any) -> ImageRef:
            path = folder / "img" / name
            return ImageRef(str(path), *said, size=len(png(1)), modified_at=path.stat().st_mtime)

        noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
        return [
            ref("a.png", "cam-1", noon, {"n": "1"}),
            ref("b.png", "given", noon.replace(hour=10), {}),
            ref("c.png", "given", None, {"n": "3", "captured_at": "last Tuesday"}),
        ]

    def write(self, folder: Path, form: str) -> Path:
        for name in "abc":
            write(folder / f"img/{name}.png", png(1))
        path = folder / f"manifest.{form}"
        match form:
            case "csv":
                lines = [",".join(self.ROWS[0])] + [",".join(row.values()) for row in self.ROWS]
                write(path, "\ufeff" + "\r\n".join(lines))  # as a spreadsheet saves it
            case "jsonl":
                write(path, "\n\n".join(json.dumps(row) for row in self.ROWS))
            case "parquet":
                pq.write_table(pa.Table.from_pylist(list(self.ROWS)), path)
        return path

    @pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
    @pytest.mark.usefixtures("in_new_york")  # a time without a zone is UTC everywhere
    def test_every_form_says_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
    ) -> None:
        manifest = self.write(tmp_path / "set", form)
        monkeypatch.chdir("/")
        assert listed([manifest], "given") == self.expected(tmp_path / "set")

    def test_typed_columns_become_times_and_json(self, tmp_path: Path) -> None:
        write(tmp_path / "a.png", png(1))
        table = pa.table(
            {
                "uri": [str(tmp_path / "a.png")],
                "captured_at": pa.array([1_777_636_800_000_000_001], pa.timestamp("ns")),
                "exposure": [float("nan")],
                "gps": [{"lat": 47.5, "fix": None}],
                "tags": [["rain", "night"]],
                "day": pa.array([20_000], pa.date32()),
                "hash": [b"\x00"],
                "gain": pa.array(["1.5"]).cast(pa.decimal128(4, 2)),
            }
        )
        pq.write_table(table, tmp_path / "m.parquet")
        (ref,) = listed([tmp_path / "m.parquet"])
        assert ref.captured_at == datetime(2026, 5, 1, 12, tzinfo=UTC)
        assert type(ref.captured_at) is datetime
        assert ref.metadata == {
            "gps": {"lat": 47.5, "fix": None},
            "tags": ["rain", "night"],
            "day": "2024-10-04",
            "gain": "1.50",
        }

    def test_a_row_that_names_nothing_is_a_reject_and_not_an_end(self, tmp_path: Path) -> None:
        photo = write(tmp_path / "a.png", png(1))
        rows = [f'{{"uri": "{photo}"}}', "{oops", '{"uri": "b.png"}', "[]"]
        rows += [r'{"uri": "nul\u0000.png"}', r'{"uri": "half\ud800.png", "source": "\ud800"}']
        manifest = write(tmp_path / "m.jsonl", "\n".join(rows))
        good, *bad = listed([manifest])
        assert read(good) == png(1)
        assert bad[0].uri == f"{tmp_path}/b.png"
        assert f"{manifest}#row 2" in [ref.uri for ref in bad]
        assert len(bad) == 5
        for ref in bad:
            with pytest.raises(ImageError, match="unreadable"):
                read(ref)

    def test_uris_of_members_find_their_way_back(self, tmp_path: Path) -> None:
        write(tmp_path / "s.tar", tar_bytes({"x/a.png": png(1), "x/b.png": png(2)}))
        hf_parquet(tmp_path / "t.parquet", 5)
        uris = ["s.tar#x/b.png", "t.parquet#image/4", "s.tar#gone.png", "t.parquet#image/5"]
        manifest = write(tmp_path / "m.csv", "\n".join(["uri", *uris]))
        refs = {ref.uri.removeprefix(f"{tmp_path}/"): ref for ref in listed([manifest])}
        assert [read(refs[uri]) for uri in uris[:2]] == [png(2), png(4)]
        for uri in uris[2:]:
            with pytest.raises(ImageError, match="unreadable"):
                read(refs[uri])

    def test_what_is_no_csv_is_said_at_once(self, tmp_path: Path) -> None:
        manifest = write(tmp_path / "m.csv", "uri\n" + "x" * 200_000)
        with pytest.raises(UsageError, match=r"m\.csv is no CSV"):
            open_source([str(manifest)])

    def test_a_manifest_without_uris_is_said_at_once(self, tmp_path: Path) -> None:
        manifest = write(tmp_path / "m.csv", "path,label\na.png,1\n")
        with pytest.raises(UsageError, match=r"no column 'uri' \(it has: path, label\); rename"):
            open_source([str(manifest)])


class TestTar:
    def test_members_are_described_by_their_sidecars(self, tmp_path: Path) -> None:
        sidecar = {"source": "cam-7", "captured_at": "2026-05-01T12:00:00Z", "label": 3}
        shard = write(
            tmp_path / "shard.tar",
            tar_bytes(
                {
                    "day.1/0001.left.png": png(1),
                    "day.1/0001.right.PNG": png(2),
                    "day.1/0001.json": json.dumps(sidecar).encode(),
                    "day.1/0002.cls": b"5",
                    "day.1/0002.json": b"{oops",
                    "day.1/0002.png": png(3),
                    "day.1/caf\udce9.png": png(4),
                }
            ),
        )
        left, right, plain, latin = listed([shard], "given")
        assert left.uri == f"{shard}#day.1/0001.left.png"
        assert (left.size, left.modified_at) == (len(png(1)), 1_700_000_000.0)
        assert left.captured_at == right.captured_at == datetime(2026, 5, 1, 12, tzinfo=UTC)
        assert (left.source, left.metadata) == ("cam-7", {"label": 3})
        assert (plain.source, plain.captured_at, plain.metadata) == ("given", None, {})
        assert latin.uri.endswith(r"#day.1/caf\udce9.png")
        assert [read(ref) for ref in (left, right, plain)] == [png(1), png(2), png(3)]
        assert read(locate(latin.uri)) == read(latin) == png(4)

    @pytest.mark.parametrize("given", ["shard-{000..011}.tar", "*.tar", ".", "shard-0{00..11}.tar"])
    def test_shards_are_found_by_braces_globs_and_folders(self, tmp_path: Path, given: str) -> None:
        for number in range(12):
            write(tmp_path / f"shard-{number:03}.tar", tar_bytes({f"{number}.png": png(number)}))
        refs = listed([tmp_path / given])
        assert [read(ref) for ref in refs] == [
            png(int(ref.uri.rpartition("#")[2].removesuffix(".png"))) for ref in refs
        ]
        assert len(refs) == 12

    def test_a_missing_shard_is_named_before_the_run(self, tmp_path: Path) -> None:
        write(tmp_path / "s-0.tar", tar_bytes({"a.png": png(1)}))
        with pytest.raises(NotFoundError, match=r"there is no '.*/s-1\.tar'"):
            open_source([f"{tmp_path}/s-{{0..1}}.tar"])

    def test_a_shard_that_ends_early_loses_only_what_is_missing(self, tmp_path: Path) -> None:
        whole = tar_bytes({"a.png": png(1), "b.png": b"x" * 5000, "c.png": png(3)})
        shard = write(tmp_path / "s.tar", whole[:3000])
        refs = {ref.uri.removeprefix(str(shard)): ref for ref in listed([shard])}
        assert read(refs.pop("#a.png")) == png(1)
        assert set(refs) == {"#b.png", "#"}
        for ref in refs.values():
            with pytest.raises(ImageError, match="damaged or ends before"):
                read(ref)

    def test_a_compressed_shard_is_refused_before_the_run(self, tmp_path: Path) -> None:
        write(tmp_path / "s.tar.gz", b"\x1f\x8b")
        with pytest.raises(UsageError, match=r"s\.tar\.gz' is compressed.*plain \.tar"):
            open_source([str(tmp_path)])


class TestParquet:
    def test_images_are_read_from_their_rows(self, tmp_path: Path) -> None:
        path = hf_parquet(tmp_path / "data/train.parquet", 10, label=list(range(10)))
        assert pq.ParquetFile(path).num_row_groups == 4
        write(tmp_path / "README.md", "a data set card")
        refs = listed([tmp_path])
        assert [(ref.uri, ref.metadata) for ref in refs] == [
            (f"{path}#image/{row}", {"label": row}) for row in range(10)
        ]
        assert {ref.size for ref in refs} == {path.stat().st_size}
        with ThreadPoolExecutor(8) as pool:
            shuffled = np.random.default_rng(0).permutation(200).tolist()
            assert list(pool.map(read, [refs[i % 10] for i in shuffled])) == [
                png(i % 10) for i in shuffled
            ]

    def test_several_cameras_a_row_and_a_row_without_an_image(self, tmp_path: Path) -> None:
        kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        columns = {
            "left": pa.array([{"bytes": png(1), "path": None}, None], kind),
            "right": pa.array([{"bytes": png(2), "path": None}] * 2, kind),
        }
        pq.write_table(pa.table(columns), tmp_path / "p.parquet")
        left, empty, right, _ = listed([tmp_path / "p.parquet"])
        assert (read(left), read(right)) == (png(1), png(2))
        with pytest.raises(ImageError, match=r"row 1 of .* holds no image bytes"):
            read(empty)

    def test_a_file_replaced_in_place_is_read_anew(self, tmp_path: Path) -> None:
        path = hf_parquet(tmp_path / "p.parquet", 3)
        assert read(locate(f"{path}#image/0")) == png(0)
        pq.write_table(pq.read_table(path).slice(1), path)
        os.utime(path, (0, 0))
        assert read(locate(f"{path}#image/0")) == png(1)

    def test_a_damaged_file_among_good_ones_is_a_reject(self, tmp_path: Path) -> None:
        hf_parquet(tmp_path / "a.parquet", 2)
        write(tmp_path / "b.parquet", b"PAR1 no more")
        *good, bad = listed([tmp_path / "a.parquet", tmp_path / "*.parquet"], kind="parquet")
        assert {read(ref) for ref in good} == {png(0), png(1)}
        with pytest.raises(ImageError, match="unreadable"):
            read(bad)

    def test_a_file_of_neither_images_nor_uris_is_said_at_once(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"text": ["a"]}), tmp_path / "p.parquet")
        with pytest.raises(UsageError, match=r"it has: text"):
            open_source([str(tmp_path / "p.parquet")])
        with pytest.raises(UsageError, match=r"a struct \{bytes, path\} \(it has: text\)"):
            open_source([str(tmp_path / "p.parquet")], kind="parquet")


class TestInputs:
    def test_kinds_mix_and_an_input_given_twice_counts_once(self, tmp_path: Path) -> None:
        photo = write(tmp_path / "p/a.png", png(1))
        shard = write(tmp_path / "s.tar", tar_bytes({"b.png": png(2)}))
        manifest = write(tmp_path / "m.csv", "uri\np/a.png\n")
        refs = listed([photo, shard, manifest, photo])
        assert [ref.uri for ref in refs] == [str(photo)] * 2 + [f"{shard}#b.png"]

    def test_images_beside_a_shard_make_the_folder_one_of_images(self, tmp_path: Path) -> None:
        for name in ("a.png", "s.tar"):
            write(tmp_path / name, png(1))
        assert {ref.container for ref in listed([tmp_path])} == {"file"}

    @pytest.mark.parametrize("given", ["none", "none/*.png", "none.csv", "no-{0..2}.png"])
    def test_what_is_not_there_is_said(self, tmp_path: Path, given: str) -> None:
        with pytest.raises(NotFoundError, match=r"no.*; (name|check)"):
            open_source([str(tmp_path / given)])

    def test_no_input_is_a_mistake(self) -> None:
        with pytest.raises(UsageError, match="no images given"):
            open_source([])
