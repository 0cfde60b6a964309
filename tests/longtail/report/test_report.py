"""A report tells what the tables and the run's folder hold, in one file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from longtail.report import render, write_report
from longtail.report.collect import MOST_CARDS, MOST_FAULT_CARDS, MOST_SOURCES, collect
from longtail.report.data import Histogram
from longtail.report.render import bars, duration, file_name, percent, plural, rate
from longtail.runs import write_json
from longtail.triggers import StandingQuery
from pipelines.publish import record_audit
from schemas.arrow import REJECTS, SAMPLES, SCORES
from schemas.audit import Audit, Outcome
from schemas.catalog import Catalog

RUN, ENCODER = "20260304T050607Z-abcdef", "toy-0123456789ab"
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
NASTY = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'


def thumbnail(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 12), (number % 256, 90, 40)).save(stream, "JPEG")
    return stream.getvalue()


def sample_id(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def fill(
    catalog: Catalog, samples: int, outliers: int, faults: int, sources: int = 3, alike: int = 0
) -> None:
    """A workspace as one run leaves it: the first samples are flagged, in order.

    Of the outliers the last `alike` are a group, with the last of all in its middle.
    """

    def source(number: int) -> str:
        return f"line {number % sources}"

    def uri(number: int) -> str:
        return f"s3://bucket/{number}.jpg" if number != 1 else f"photos/{NASTY}.jpg"

    base = {
        **{field.name: "" for field in SAMPLES if field.type == pa.string()},
        **{field.name: 1 for field in SAMPLES if pa.types.is_integer(field.type)},
        **{field.name: 0.5 for field in SAMPLES if pa.types.is_floating(field.type)},
        "encoder": ENCODER,
        "embedding_high": [1.0],
        "ingested_at": NOW,
    }
    rows = [
        base | {"sample_id": sample_id(n), "uri": uri(n), "thumbnail": thumbnail(n)}
        for n in range(samples)
    ]
    flags = outliers + faults
    scores = [
        {
            "run_id": RUN,
            "encoder": ENCODER,
            "sample_id": sample_id(n),
            "uri": uri(n),
            "source": source(n),
            "kind": None if n >= flags else "outlier" if n < outliers else "capture_fault",
            "of_reference": False,
            "rank": n + 1 if n < flags else None,
            "score": 1 - n / samples,
            "p_value": 0.0123 if n == 0 else None,
            "group": 1 if outliers - alike <= n < outliers else None,
            "group_distance": (outliers - 1 - n) / 10,
            "level": "low" if n >= outliers else "high",
            **{"z_low": 1.0, "z_mid": 0.0, "z_high": 9.0 if n < outliers else -1.0},
            "reasons": [f"reason {n}.{i}" for i in range(5)] if n < flags else None,
            "nearest": [
                {
                    "sample_id": sample_id(samples - 1 - i),
                    "uri": uri(samples - 1 - i),
                    "distance": 0.25 + i / 10,
                }
                for i in range(3)
            ]
            if n < flags
            else None,
        }
        for n in range(samples)
    ]
    reject = {
        "source": "",
        "metadata": "{}",
        "size": 0,
        "modified_at": 0.0,
        "detail": "",
        "limits": "",
        "run_id": RUN,
    }
    rejects = [
        reject | {"uri": f"broken/{n}.png", "reason": "truncated" if n < 4 else "not_an_image"}
        for n in range(5)
    ]
    rejects.append(reject | {"uri": "other.png", "reason": "empty", "run_id": "another run"})
    for table, content, schema in (
        (catalog.samples, rows, SAMPLES),
        (catalog.scores, scores, SCORES),
        (catalog.rejects, rejects, REJECTS),
    ):
        staged = table.stage(pa.Table.from_pylist(content, schema=schema))
        table.commit([staged], transaction="test")

    folder = catalog.run(RUN)
    folder.mkdir(parents=True)
    (folder / "mine.json").write_text(
        json.dumps(
            {"encoder": ENCODER, "snapshot": 7, "vectors": samples, "policy": {"budget": "2%"}}
        )
    )
    (folder / "metrics.json").write_text(
        json.dumps(
            {
                "summary": {
                    **{"run_id": RUN, "started_at": NOW.isoformat(), "seconds": 83.4},
                    **{"ingested": samples, "skipped": 12, "rejected": 5, "flagged": flags},
                },
                "command": "run",
                "inputs": [f"photos/{NASTY}"],
                "counters": {"ingested": samples, "indexed": samples, "decode_us": 4_000_000},
                "seconds": {"ingest": 20.0, "index": 0.5, "mine": 2.0},
            }
        )
    )
    warning = Outcome(
        "expect_column_values_to_be_in_set",
        "explained",
        "one of True",
        "warning",
        False,
        f"2 of {samples} values unexpected",
    )
    record_audit(folder, Audit("scores", samples, (warning,)))


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path)


class Page(HTMLParser):
    """The elements of a page, its pictures and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report(catalog: Catalog) -> Page:
    path = catalog.run(RUN) / "report.html"
    write_report(path, catalog, RUN)
    return Page(path.read_text("utf-8"))


def test_the_report_tells_what_ran_and_what_was_found(catalog: Catalog) -> None:
    fill(catalog, samples=40, outliers=4, faults=2)
    page = report(catalog)
    for text in (
        "4 edge cases and 2 capture faults among 40 images",
        "4 March 2026, 05:06 UTC",
        "known already 12",
        "rejected 5",
        "took 1 min 23 s",
        "ingest 40 20.0 s 2",
        "decode 40 4.0 s 10",
        "index 40 0.5 s 80",
        "mine 40 2.0 s 20",
        "longtail run",
        "budget 2%",
        "truncated 4 broken/0.png broken/1.png broken/2.png",
        "not an image 1 broken/4.png",
        "line 0 14 2 14 %",
        "strangest of 4 flags",
        "strangest of 2 flags",
        "cut 0.925",
        "p-value 0.012",
        "reason 3.0",
        "1 warning",
        "2 of 40 values unexpected",
        f"longtail verdict {sample_id(0)[:10]} edge_case",
    ):
        assert text in page.text, text
    assert "other.png" not in page.text
    assert not (catalog.run(RUN) / "report.tmp").exists()


def test_flags_come_first_and_capture_faults_by_themselves(catalog: Catalog) -> None:
    fill(catalog, samples=40, outliers=3, faults=2)
    text = report(catalog).text
    order = [
        text.index(words)
        for words in (
            "Edge cases Strangest",
            "reason 2.0",
            "Capture faults What",
            "reason 3.0",
            "reason 4.0",
            "Rejected inputs",
        )
    ]
    assert order == sorted(order)


def test_thumbnails_stand_beside_their_nearest(catalog: Catalog) -> None:
    fill(catalog, samples=40, outliers=2, faults=0)
    pictures = report(catalog).all("img")
    assert [picture["alt"] for picture in pictures[:4]] == ["0.jpg", "39.jpg", "38.jpg", "37.jpg"]
    assert len(pictures) == 8
    assert len({picture["src"] for picture in pictures}) == 5


def test_nothing_is_loaded_and_no_text_is_markup(catalog: Catalog) -> None:
    fill(catalog, samples=40, outliers=4, faults=1)
    page = report(catalog)
    assert NASTY in page.text
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "a", "object", "base"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:image/jpeg;base64,").startswith("data:image/jpeg")
    html = (catalog.run(RUN) / "report.html").read_text("utf-8")
    assert not re.search(r"url\(|@import|https?://", html)


def test_the_size_is_bounded(catalog: Catalog) -> None:
    fill(catalog, samples=300, outliers=100, faults=50, sources=30)
    data = collect(catalog, RUN)
    assert (len(data.cards), data.outliers) == (MOST_CARDS, 100)
    assert (len(data.fault_cards), data.capture_faults) == (MOST_FAULT_CARDS, 50)
    assert len(data.thumbnails) == MOST_CARDS + MOST_FAULT_CARDS + 3
    assert [share.name for share in data.sources[MOST_SOURCES:]] == ["22 more sources"]
    assert sum(share.samples for share in data.sources) == 300
    assert sum(share.flags for share in data.sources) == 150
    page = Page(render(data))
    assert "The first 60 of 100, strangest first." in page.text
    assert "The first 18 of 50; they take no place" in page.text


def test_a_group_is_one_card_at_the_rank_of_its_best_flag(catalog: Catalog) -> None:
    fill(catalog, samples=100, outliers=63, faults=1, alike=60)
    data = collect(catalog, RUN)
    assert [len(card.members) for card in data.cards] == [1, 1, 1, 60]
    page = Page(render(data))
    assert "Strangest first. Alike ones share a card with the one in their middle" in page.text
    assert "4 high level shown rank 63 score 0.3800 alike 60, spread 3.00" in page.text
    assert "alike, with their ranks 4 5 6" in page.text
    assert "33 and 29 more" in page.text
    assert len(data.thumbnails) == 3 + 1 + 30 + 1 + 3
    assert f"longtail verdict {sample_id(62)[:10]} junk --group --run {RUN}" in page.text


def test_new_matches_of_triggers_are_shown_up_to_twelve(catalog: Catalog) -> None:
    fill(catalog, samples=40, outliers=2, faults=0)
    catalog.triggers.mkdir()
    told_by = {"20260101T000000Z-000000": [30], RUN: [1, *range(10, 24)], RUN + "f": [24]}
    matched = {sample_id(n): run for run, numbers in told_by.items() for n in numbers}
    for name, found in (("cracks", matched), ("none-yet", {})):
        query = StandingQuery(name, ENCODER, positive=(sample_id(9),), matched=found)
        write_json(catalog.trigger(name), asdict(query))
    (shown_,) = collect(catalog, RUN).matches
    assert (shown_.trigger, shown_.count) == ("cracks", 16)
    assert [match.sample_id for match in shown_.shown] == [
        sample_id(n) for n in (1, *range(10, 21))
    ]
    assert [match.flagged for match in shown_.shown] == [True] + [False] * 11
    page = report(catalog)
    _, _, shown = page.text.partition("Triggers What is new")
    assert f"{sample_id(1)[:8]} {sample_id(10)[:8]} {sample_id(11)[:8]}" in shown
    assert "16 new matches, the first 12 shown" in shown
    assert "cracks longtail trigger show cracks" in shown
    pictures = {picture["alt"]: picture["src"] for picture in page.all("img")}
    encoded = base64.b64encode(thumbnail(20)).decode()
    assert pictures["20.jpg"] == f"data:image/jpeg;base64,{encoded}"
    assert "21.jpg" not in pictures


def test_the_histograms_count_every_sample_and_flag(catalog: Catalog) -> None:
    fill(catalog, samples=100, outliers=10, faults=5)
    data = collect(catalog, RUN)
    assert (sum(data.scores.counts), sum(data.scores.flagged)) == (100, 10)
    assert data.scores.cut == pytest.approx(0.91)
    assert [spread.flags for spread in data.levels] == [5, 0, 10]
    high = data.levels[2].deviation
    assert (sum(high.counts), sum(high.flagged)) == (100, 15)
    assert high.flagged[-9] == 10  # z = 9 on an axis from -4 to 12


def test_a_run_without_flags_says_so(catalog: Catalog) -> None:
    fill(catalog, samples=10, outliers=0, faults=0)
    text = report(catalog).text
    for words in (
        "No edge cases among 10 images",
        "No image stands out",
        "None: no image deviates",
    ):
        assert words in text
    assert "longtail verdict" not in text


def test_a_run_killed_after_it_published_has_a_report(catalog: Catalog) -> None:
    fill(catalog, samples=20, outliers=2, faults=0)
    (catalog.run(RUN) / "metrics.json").unlink()
    (catalog.run(RUN) / "validation.json").unlink()
    text = report(catalog).text
    assert "2 edge cases among 20 images" in text
    assert "took –" in text
    assert "None is on record for this run." in text


def test_bars_are_as_tall_as_their_counts() -> None:
    values, flagged = np.array([0.1, 0.1, 0.9, 5.0]), np.array([False, True, False, True])
    histogram = Histogram.of(values, flagged, low=0, high=1, bins=2)
    assert (histogram.counts, histogram.flagged) == ((2, 2), (1, 1))
    heights = re.findall(r"v-([\d.]+)", bars(histogram))
    assert heights == ["1.0000", "1.0000", "0.5000", "0.5000"]
    assert re.findall(r"v-([\d.]+)", bars(histogram, root=True))[-1] == "0.7071"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (duration(5.63), "5.6 s"),
        (duration(75.3), "1 min 15 s"),
        (duration(7_290), "2 h 1 min"),
        (percent(0), "0 %"),
        (percent(0.0042), "0.42 %"),
        (percent(1), "100 %"),
        (plural(1, "image"), "1 image"),
        (plural(2_000, "image"), "2,000 images"),
        (rate(2_866.4), "2,866"),
        (rate(3.14159), "3.14"),
        (file_name("s3://bucket/a.tar#b/c.jpg"), "c.jpg"),
        (file_name("photo.jpg"), "photo.jpg"),
    ],
)
def test_figures_are_written_for_people(written: str, expected: str) -> None:
    assert written == expected
