"""How fast images become samples: `python -m benchmarks.encode [--quick]`.

In one process and with the same threads: decoding alone, the network alone, the best bare loop of
both, and a whole ingest into a fresh workspace, on ELPV and on JPEGs of 1.2 and 12 megapixels made
from photographs of scikit-learn. The last line is one JSON object; the full form
also writes benchmarks/results/encode.json.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

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


def jpegs(folder: Path, count: int, width: int, height: int) -> list[Path]:
    """Crops of real photographs, enlarged. The bytes of each file differ, the pixels of 24 do."""
    folder.mkdir()
    rng = np.random.default_rng(width)
    sources = [Image.fromarray(each) for each in load_sample_images().images]
    files = []
    for i in range(min(count, 24)):
        left, top = rng.uniform(0, 100), rng.uniform(0, 60)
        box = (left, top, left + 520, top + 360)
        large = sources[i % 2].resize((width, height), Image.Resampling.BICUBIC, box=box)
        stream = io.BytesIO()
        large.save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    paths = [folder / f"{i:05}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(files[i % len(files)] + i.to_bytes(4, "big"))  # after the image's end
    return paths


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
    """Images/s of nothing but read, decode and encode: what no pipeline can beat."""

    def batch(part: Sequence[Path]) -> None:
        pictures = [decode(path.read_bytes(), PREPROCESS, LIMITS).pixels for path in part]
        encoder.encode(np.stack(pictures))

    parts = [paths[i : i + BATCH] for i in range(0, len(paths), BATCH)]
    begun = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as threads:
        for _ in threads.map(batch, parts):
            pass
    return len(paths) / (time.perf_counter() - begun)


def ingest_rate(folder: Path, inputs: Sequence[Path], count: int) -> float:
    """Images/s of `Workspace.ingest` into a fresh workspace, from listing to commit."""
    workspace = Workspace.create(folder)
    begun = time.perf_counter()
    summary = workspace.ingest([str(path) for path in inputs])
    seconds = time.perf_counter() - begun
    if summary.ingested != count:
        raise SystemExit(f"{summary.ingested} of {count} images were ingested")
    return count / seconds


def plain_torch_rate(paths: Sequence[Path], batch: int) -> float:
    """Images/s of the loop that a person writes first: eager fp32, channels_last, all cores.

    Decoded by as many threads; inference_mode, which doubles eager's speed, is on.
    """
    torch.set_num_threads(WORKERS)
    network = backends.PixelsToVectors(pretrained.find(registry.DEFAULT).build(), PREPROCESS)
    network = network.eval().to(memory_format=torch.channels_last)

    def pixels(path: Path) -> np.ndarray:
        return decode(path.read_bytes(), PREPROCESS, LIMITS).pixels

    with ThreadPoolExecutor(WORKERS) as threads, torch.inference_mode():
        network(torch.zeros(batch, PREPROCESS.size, PREPROCESS.size, 3, dtype=torch.uint8))
        begun = time.perf_counter()
        for start in range(0, len(paths), batch):
            pictures = np.stack(list(threads.map(pixels, paths[start : start + batch])))
            network(torch.from_numpy(pictures))
    return len(paths) / (time.perf_counter() - begun)


def peak_memory(images: int) -> int:
    """Bytes that an ingest of so many images takes at most, in a process of its own."""
    code = (
        "import re, sys, tempfile; from pathlib import Path;"
        "from longtail.workspace import Workspace;"
        "folder = tempfile.mkdtemp();"
        "Workspace.create(folder).ingest([sys.argv[1]]);"
        # not ru_maxrss, which a child inherits from its parent
        "status = Path('/proc/self/status').read_text();"
        "print(int(re.search(r'VmHWM:\\s*(\\d+)', status)[1]) * 1024)"
    )
    with tempfile.TemporaryDirectory() as folder:
        noise = np.random.default_rng(0)
        for i in range(images):
            pixels = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((300, 300), Image.Resampling.BICUBIC)
            image.save(Path(folder) / f"{i:06}.jpg", quality=85)
        run = [sys.executable, "-c", code, folder]
        return int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer images, under a minute")
    quick = parser.parse_args().quick
    counts = {"elpv": 1000, "jpeg_1mp": 480, "jpeg_12mp": 240}
    if not quick:
        counts = {"elpv": 2624, "jpeg_1mp": 2400, "jpeg_12mp": 960}

    result: dict[str, object] = {}
    speeds: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = {"elpv": [Path(path) for path in demo.photographs(counts["elpv"])]}
        for kind, (width, height) in JPEGS.items():
            sets[kind] = jpegs(folder / kind, counts[kind], width, height)
        encoder = registry.share(device="cpu", workers=WORKERS)
        ingest_rate(folder / "warm", sets["jpeg_1mp"][:32], 32)
        for kind, paths in sets.items():
            some = paths[: max(len(paths) // 4, 24)]
            speeds[kind] = {
                "decode": rate(lambda p: decode(p.read_bytes(), PREPROCESS, LIMITS), some),
                "loop": loop_rate(encoder, paths),
                "ingest": ingest_rate(folder / f"{kind}-workspace", paths, len(paths)),
            }
        forward = forward_rate(encoder, 1024)
        some = sets["elpv"][: 320 if quick else 960]
        for batch in (BATCH, 64):
            speeds["elpv"][f"torch_fp32_batch_{batch}"] = plain_torch_rate(some, batch)

    result["images_per_s"] = {"forward": round(forward, 1)} | {
        f"{kind}_{name}": round(value, 1)
        for kind, each in speeds.items()
        for name, value in each.items()
    }
    result["ratio_to_bare_loop"] = {
        kind: round(each["ingest"] / each["loop"], 3) for kind, each in speeds.items()
    }
    elpv = speeds["elpv"]
    result["speedup_over_torch_fp32"] = round(elpv["ingest"] / elpv[f"torch_fp32_batch_{BATCH}"], 2)
    if not quick:
        result["peak_memory_bytes"] = {n: peak_memory(n) for n in (2_000, 20_000)}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result | {"encoder": encoder.info.id}, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
