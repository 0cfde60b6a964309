"""Lays a report out: a Jinja2 template, its style sheet and nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache

import jinja2
from markupsafe import Markup

from longtail.report.data import MOST_ALIKE, Card, Histogram, ReportData
from schemas.records import Level

_GAP = 0.12  # of a bin's width, between bars

MEANING: Mapping[Level, str] = {
    "low": "texture, exposure",
    "mid": "parts",
    "high": "whole object",
}


def render(data: ReportData) -> str:
    """The report as one HTML document without links to anything outside it.

    Every text is escaped: URIs, sources and reasons come from the world.
    """
    largest = max((share.of_samples for share in data.sources), default=0) or 1
    return _environment().get_template("report.html.j2").render(data=data, largest_share=largest)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("longtail.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "at": position,
        "bars": bars,
        "count": "{:,}".format,
        "duration": duration,
        "file_name": file_name,
        "flags": flags,
        "jpeg": jpeg_uri,
        "percent": percent,
        "plural": plural,
        "rate": rate,
        "ticks": ticks,
        "utc": utc,
    }
    environment.globals |= {"meaning": MEANING, "most_alike": MOST_ALIKE}
    return environment


def bars(histogram: Histogram, root: bool = False) -> Markup:
    """The bars as SVG paths, all and over them the flags; `root` draws square roots of counts."""
    power = 0.5 if root else 1.0
    tallest = max(histogram.counts, default=0) or 1
    paths = []
    for name, counts in (("all", histogram.counts), ("flags", histogram.flagged)):
        steps = (
            f"M{number + _GAP / 2:g} 1v{-((count / tallest) ** power):.4f}h{1 - _GAP:g}V1z"
            for number, count in enumerate(counts)
            if count
        )
        paths.append(f'<path class="{name}" d="{"".join(steps)}"/>')
    box = f"0 0 {len(histogram.counts)} 1"
    return Markup(
        f'<svg viewBox="{box}" preserveAspectRatio="none" aria-hidden="true">{"".join(paths)}</svg>'
    )


def position(value: float, histogram: Histogram) -> float:
    """Where a value lies on a histogram's axis, in percent."""
    return round(100 * (value - histogram.low) / ((histogram.high - histogram.low) or 1), 2)


def ticks(histogram: Histogram, step: float) -> list[tuple[float, str]]:
    """Values along the axis from its low end on, every `step`, and how to write them."""
    count = round((histogram.high - histogram.low) / step) if step else 0
    values = [histogram.low + number * step for number in range(count + 1)]
    return [(value, f"{value:g}".replace("-", "−")) for value in values]


def duration(seconds: float) -> str:
    """75.3 as `1 min 15 s`, 5.63 as `5.6 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def file_name(uri: str) -> str:
    """The last part of a URI."""
    return uri.rstrip("/").rpartition("/")[2] or uri


def flags(cards: Iterable[Card]) -> int:
    """How many flags the cards are of."""
    return sum(len(card.members) for card in cards)


def jpeg_uri(data: bytes) -> str:
    """A JPEG as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def percent(share: float) -> str:
    """0.0762 as `7.6 %`; small shares keep two digits."""
    return f"{100 * share:.2g} %" if 0 < share < 0.1 else f"{100 * share:.0f} %"


def plural(count: int, singular: str, many: str | None = None) -> str:
    """`1 flag`, `2,000 flags`."""
    return f"{count:,} {singular if count == 1 else many or singular + 's'}"


def rate(per_second: float) -> str:
    """Images a second, to three digits."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def utc(time: datetime) -> str:
    """`4 March 2026, 09:05 UTC`."""
    time = time.astimezone(UTC)
    return f"{time.day} {time:%B %Y, %H:%M} UTC"
