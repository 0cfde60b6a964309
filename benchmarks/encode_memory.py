"""How much memory an ingest takes: `python -m benchmarks.encode_memory`, a part of `encode`.

Peak resident memory (VmHWM) of a process that ingests 2,000 images, and of one that ingests 20,000:
those of ELPV again and again with one pixel changed.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from longtail import demo

COUNTS = (2_000, 20_000)

# VmHWM, not ru_maxrss, which a child inherits from its parent.
INGEST = """
import re, sys
from pathlib import Path
from longtail.workspace import Workspace
summary = Workspace.create(sys.argv[2]).ingest([sys.argv[1]])
status = Path("/proc/self/status").read_text()
print(summary.ingested, int(re.search(r"VmHWM:\\s*(\\d+)", status)[1]) * 1024)
"""


def write_images(folder: Path, count: int) -> None:
    """PNGs whose contents all differ."""
    folder.mkdir()
    photographs = sorted(Path(*demo.photographs()).glob("*.png"))
    for i, path in enumerate(itertools.islice(itertools.cycle(photographs), count)):
        with Image.open(path) as image:
            turn, at = divmod(i, len(photographs))
            image.putpixel((at % image.width, 0), turn)
            image.save(folder / f"{i:06}.png", compress_level=1)


def peak_memory(count: int) -> int:
    """Bytes that ingesting so many images takes at most, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", count)
        run = [sys.executable, "-c", INGEST, str(folder / "images"), str(folder / "workspace")]
        output = subprocess.run(run, check=True, capture_output=True, text=True).stdout
    ingested, peak = map(int, output.split())
    if ingested != count:
        raise SystemExit(f"{ingested} of {count} images were ingested")
    return peak


def measure() -> dict[str, object]:
    """The peaks in bytes by the number of images, and the greater over the smaller."""
    peaks = {count: peak_memory(count) for count in COUNTS}
    few, many = peaks.values()
    return {"bytes": peaks, "ratio": round(many / few, 3)}


if __name__ == "__main__":
    print(json.dumps(measure()))
