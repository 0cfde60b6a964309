"""How fast images become samples: `python -m benchmarks.encode [--quick]`.

In one process and with the same threads: decoding alone, the network alone, a bare loop of both,
and a whole ingest into a fresh workspace, on ELPV and on JPEGs of 1.2 and 12 megapixels made from
photographs of scikit-learn. Decoding is that of an ingest, with the statistics and the thumbnail
of a sample. Loop and ingest take turns, and the median of their ratios counts, because a machine
is not equally fast from one half minute to the next.

`speedup_over_torch_fp32` is the ingest of ELPV over plain torch, eager, fp32 and channels_last, end
to end: one batch after the other, each spread over all cores, at the best batch size. The ingest
keeps one batch on each core instead; what plain torch gains by that stands in
`speedup_over_torch_fp32_per_core`.

The last line is one JSON object; the full form also measures memory and writes
benchmarks/results/encode.json.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks import encode_memory
from encoders import backends, hardware, pretrained, registry
from encoders.base import Encoder
from encoders.images import Limits, decode
from longtail import demo
from longtail.workspace import Workspace

RESULTS = Path(__file__).parent / "results" / "encode.json"
WORKERS = hardware.cores()
BATCH = 16
LIMITS = Limits()
PREPROCESS = pretrained.PRETRAINED[registry.DEFAULT].preprocess
JPEGS = {"jpeg_1mp": (1280, 960), "jpeg_12mp": (4000, 3000)}


def jpegs(folder: Path, count: int, width: int, height: int) -> None:
    """Crops of real photographs, enlarged. The bytes of each file differ, the pixels of 12 do."""
    folder.mkdir()
    rng = np.random.default_rng(width)
    sources = [Image.fromarray(each) for each in load_sample_images().images]
    files = []
    for i in range(min(count, 12)):
        left, top = rng.uniform(0, 100), rng.uniform(0, 60)
        box = (left, top, left + 520, top + 360)
        large = sources[i % 2].resize((width, height), Image.Resampling.BICUBIC, box=box)
        stream = io.BytesIO()
        large.save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    for i in range(count):
        after_the_end = i.to_bytes(4, "big")
        (folder / f"{i:05}.jpg").write_bytes(files[i % len(files)] + after_the_end)


def links(folder: Path, count: int) -> None:
    """The first photographs of ELPV."""
    folder.mkdir()
    for path in sorted(Path(*demo.photographs()).glob("*.png"))[:count]:
        (folder / path.name).symlink_to(path.resolve())


def processor() -> str:
    """The model's name, or the architecture where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text() if cpuinfo.exists() else "")
    return found[1] if found else platform.machine()


def rate(work: Callable[[Path], object], paths: Sequence[Path]) -> float:
    """Images/s of `work` on all paths by as many threads as there are workers."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as threads:
        for _ in threads.map(work, paths):
            pass
    return len(paths) / (time.perf_counter() - begun)


def forward_rate(encoder: Encoder, count: int) -> float:
    """Images/s of the network alone."""
    size = PREPROCESS.size
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), dtype=np.uint8)
    with ThreadPoolExecutor(WORKERS) as threads:
        list(threads.map(lambda _: encoder.encode(pixels), range(WORKERS)))  # warm
        begun = time.perf_counter()
        list(threads.map(lambda _: encoder.encode(pixels), range(count // BATCH)))
    return count // BATCH * BATCH / (time.perf_counter() - begun)


def loop_rate(encoder: Encoder, paths: Sequence[Path]) -> float:
    """Images/s of nothing but read, decode and encode, a batch on each core.

    The encoder takes few images of a batch at once, so that their number hardly matters.
    """

    def batch(part: Sequence[Path]) -> None:
        pictures = [decode(path.read_bytes(), PREPROCESS, LIMITS).pixels for path in part]
        encoder.encode(np.stack(pictures))

    parts = [paths[i : i + BATCH] for i in range(0, len(paths), BATCH)]
    begun = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as threads:
        for _ in threads.map(batch, parts):
            pass
    return len(paths) / (time.perf_counter() - begun)


def ingest_rate(folder: Path, images: Path, count: int) -> float:
    """Images/s of `Workspace.ingest` into a fresh workspace, from listing to commit."""
    workspace = Workspace.create(folder)
    begun = time.perf_counter()
    summary = workspace.ingest([str(images)])
    seconds = time.perf_counter() - begun
    if summary.ingested != count:
        raise SystemExit(f"{summary.ingested} of {count} images were ingested")
    return count / seconds


def torch_rates(paths: Sequence[Path], batches: Sequence[int]) -> dict[str, dict[int, float]]:
    """Images/s of plain torch by batch size, decoding included, in the two ways to use the cores.

    all_cores: one batch after the other, spread over the cores. per_core: a batch on each core.
    Both in inference_mode, which doubles eager's speed.
    """
    network = backends.PixelsToVectors(pretrained.find(registry.DEFAULT).build(), PREPROCESS)
    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def pixels(path: Path) -> NDArray[np.uint8]:
        return decode(path.read_bytes(), PREPROCESS, LIMITS).pixels

    def forward(pictures: Sequence[NDArray[np.uint8]]) -> None:
        with torch.inference_mode():
            network(torch.from_numpy(np.stack(pictures)))

    def all_cores(parts: Sequence[Sequence[Path]], threads: ThreadPoolExecutor) -> None:
        torch.set_num_threads(WORKERS)
        for part in parts:
            forward(list(threads.map(pixels, part)))

    def per_core(parts: Sequence[Sequence[Path]], threads: ThreadPoolExecutor) -> None:
        torch.set_num_threads(1)
        list(threads.map(lambda part: forward([pixels(path) for path in part]), parts))

    rates: dict[str, dict[int, float]] = {}
    for way in (all_cores, per_core):
        rates[way.__name__] = {}
        for batch in batches:
            parts = [paths[i : i + batch] for i in range(0, len(paths), batch)]
            with ThreadPoolExecutor(WORKERS) as threads:
                way(parts[:WORKERS], threads)  # warm
                begun = time.perf_counter()
                way(parts, threads)
                rates[way.__name__][batch] = len(paths) / (time.perf_counter() - begun)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer images, under a minute")
    quick = parser.parse_args().quick
    counts = {"elpv": 1600, "jpeg_1mp": 704, "jpeg_12mp": 416}  # whole batches for two workers
    rounds = 1
    if not quick:
        counts = {"elpv": 2624, "jpeg_1mp": 2624, "jpeg_12mp": 1312}
        rounds = 5

    images_per_s: dict[str, float] = {}
    ratios: dict[str, list[float]] = {}
    encoder = registry.share(device="cpu", workers=WORKERS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        links(folder / "elpv", counts["elpv"])
        for kind, (width, height) in JPEGS.items():
            jpegs(folder / kind, counts[kind], width, height)
        jpegs(folder / "warm", 32, 640, 480)
        ingest_rate(folder / "warm-workspace", folder / "warm", 32)
        images_per_s["forward"] = forward_rate(encoder, 1024)
        for kind, count in counts.items():
            paths = sorted((folder / kind).iterdir())
            some = paths[: max(count // 4, 24)]
            images_per_s[f"{kind}_decode"] = rate(
                lambda p: decode(p.read_bytes(), PREPROCESS, LIMITS), some
            )
            loops, ingests = [], []
            for turn in range(rounds):
                loops.append(loop_rate(encoder, paths))
                workspace = folder / f"{kind}-workspace-{turn}"
                ingests.append(ingest_rate(workspace, folder / kind, count))
            images_per_s[f"{kind}_loop"] = statistics.median(loops)
            images_per_s[f"{kind}_ingest"] = statistics.median(ingests)
            ratios[kind] = [b / a for a, b in zip(loops, ingests, strict=True)]
        elpv = sorted((folder / "elpv").iterdir())
        torch_ways = (
            torch_rates(elpv[:64], (4, 16)) if quick else torch_rates(elpv[:512], (4, 16, 64))
        )

    ingest = images_per_s["elpv_ingest"]
    result: dict[str, object] = {
        "images_per_s": {name: round(value, 1) for name, value in images_per_s.items()},
        "ratio_to_bare_loop": {
            kind: round(statistics.median(each), 3) for kind, each in ratios.items()
        },
        "speedup_over_torch_fp32": round(ingest / max(torch_ways["all_cores"].values()), 2),
        "speedup_over_torch_fp32_per_core": round(ingest / max(torch_ways["per_core"].values()), 2),
        "ratios": {kind: [round(ratio, 3) for ratio in each] for kind, each in ratios.items()},
        "torch_fp32_images_per_s": {
            way: {batch: round(value, 1) for batch, value in rates.items()}
            for way, rates in torch_ways.items()
        },
        "images": counts,
        "encoder": encoder.info.id,
        "precision": encoder.info.precision,
        "processor": processor(),
        "threads": WORKERS,
    }
    if not quick:
        result["peak_memory"] = encode_memory.measure()
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
