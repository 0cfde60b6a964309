"""How busy a GPU is kept: `python -m benchmarks.gpu_encode`, needing torch and nothing of Beam.

For EfficientNet-Lite0 and a ViT-B/14 of random weights at 224 px: the ceiling, which is the
network alone on pixels that lie on the GPU; the rate from pixels in memory through
`encoders.cuda`; and the share of the time that the GPU waits. The last line is one JSON object,
also written to benchmarks/results/gpu_encode.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from encoders import hardware, pretrained
from encoders.backends import DTYPES, PixelsToVectors
from encoders.base import Preprocess
from encoders.cuda import cuda

RESULTS = Path(__file__).parent / "results" / "gpu_encode.json"
SIZE, SECONDS, CALLERS = 224, 8.0, 4
PREPROCESS = Preprocess(SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)


class ViT(nn.Module):
    """ViT-B/14 (Dosovitskiy et al., 2010.11929) of random weights: 12 blocks, 768 wide."""

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


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "efficientnet-lite0": lambda: pretrained.find("efficientnet-lite0").build(),
    "vit-b14": ViT,
}


def ceiling(network: PixelsToVectors, device: torch.device, dtype: torch.dtype, n: int) -> float:
    """Images/s of the network on pixels that are there already."""
    pixels = torch.randint(0, 256, (n, SIZE, SIZE, 3), dtype=torch.uint8, device=device)
    with torch.inference_mode(), torch.autocast("cuda", dtype):
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


def achieved(run: Callable[[np.ndarray], object], n: int) -> float:
    """Images/s from memory, by a few callers at once as the workers of a job are."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)

    def work(_: int) -> int:
        images, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < SECONDS:
            run(pixels)
            images += n
        return images

    run(pixels)
    begun = time.perf_counter()
    with ThreadPoolExecutor(CALLERS) as callers:
        images = sum(callers.map(work, range(CALLERS)))
    return images / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--batch", type=int, default=256)
    arguments = parser.parse_args()
    target = hardware.find_device(arguments.device)
    device, precision = torch.device(target.name), target.precisions[0]
    results: dict[str, object] = {
        "gpu": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "precision": precision,
    }
    for name, build in NETWORKS.items():
        torch.manual_seed(0)
        network = PixelsToVectors(build().eval(), PREPROCESS)
        run = cuda(network, SIZE, target.name, precision, compile_=False)
        most = ceiling(network, device, DTYPES[precision], arguments.batch)
        got = achieved(run, arguments.batch)
        results[name] = {
            "ceiling_images_per_s": round(most, 1),
            "images_per_s": round(got, 1),
            "gpu_waits_share": round(max(0.0, 1 - got / most), 3),
        }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
