"""EfficientNet-Lite (Tan & Le, 1905.11946; Lite: no squeeze-and-excite, ReLU6) in plain torch.

Batch norm is folded into the convolutions and the classifier's head is left out: three stages of
the trunk, averaged over the image, are the levels. `t7` ranks defects better than the head does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

State = Mapping[str, Tensor]

_BATCH_NORM_EPSILON = 1e-3
# repeats, stride and expansion of the stages t1 to t7; kernels and widths are those of the weights
_STAGES = (
    (1, 1, 1),
    (2, 2, 6),
    (2, 2, 6),
    (3, 2, 6),
    (3, 1, 6),
    (4, 2, 6),
    (1, 1, 6),
)
LEVEL_STAGES = (2, 5, 7)
PATCH_STAGES = (3, 5)


@dataclass(frozen=True, slots=True)
class Variant:
    """Compound scaling: the depth multiplier and the side of the input in pixels.

    The widths are those of the weights.
    """

    depth: float
    size: int

    def repeats(self, stage: int, base: int) -> int:
        """The first and the last stage keep their depth in the Lite family."""
        return base if stage in (0, len(_STAGES) - 1) else math.ceil(self.depth * base)


VARIANTS = {
    "efficientnet-lite0": Variant(depth=1.0, size=224),
    "efficientnet-lite2": Variant(depth=1.2, size=260),
}


class SameConv(nn.Module):
    """A convolution with batch norm folded in, padded as TensorFlow's SAME does.

    The padding depends on the side of the input, fixed here so that a traced graph holds numbers.
    """

    def __init__(self, weight: Tensor, bias: Tensor, side: int, stride: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.stride = stride
        self.groups = groups
        total = max((math.ceil(side / stride) - 1) * stride + weight.shape[-1] - side, 0)
        self.before, self.after = total // 2, total - total // 2

    def forward(self, x: Tensor) -> Tensor:
        if self.before != self.after:
            x = functional.pad(x, (self.before, self.after, self.before, self.after))
            return functional.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)
        return functional.conv2d(
            x, self.weight, self.bias, self.stride, self.before, 1, self.groups
        )


def _folded(
    state: State, conv: str, norm: str, side: int, stride: int = 1, groups: int = 1
) -> SameConv:
    gain = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + _BATCH_NORM_EPSILON)
    weight = state[f"{conv}.weight"] * gain[:, None, None, None]
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
    return SameConv(weight, bias, side, stride, groups)


class InvertedResidual(nn.Module):
    """Expand, filter depth-wise, project; added to its input where the shapes allow."""

    def __init__(self, state: State, prefix: str, side: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = state[f"{prefix}._depthwise_conv.weight"].shape[0]
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [_folded(state, f"{prefix}._expand_conv", f"{prefix}._bn0", side), nn.ReLU6()]
        depthwise, project = f"{prefix}._depthwise_conv", f"{prefix}._project_conv"
        layers += [_folded(state, depthwise, f"{prefix}._bn1", side, stride, width), nn.ReLU6()]
        layers += [_folded(state, project, f"{prefix}._bn2", math.ceil(side / stride))]
        self.layers = nn.Sequential(*layers)
        inputs = width // expansion
        outputs = state[f"{project}.weight"].shape[0]
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = cast(Tensor, self.layers(x))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """Normalised float (n, 3, size, size) -> the maps of some stages, float (n, c, h, w)."""

    def __init__(
        self, state: State, variant: Variant, stages: Collection[int] = LEVEL_STAGES
    ) -> None:
        super().__init__()
        side, block = variant.size, 0
        self.stem = nn.Sequential(_folded(state, "_conv_stem", "_bn0", side, 2), nn.ReLU6())
        side = math.ceil(side / 2)
        built = []
        for stage, (repeats, stride, expansion) in enumerate(_STAGES[: max(stages)]):
            blocks = []
            for repeat in range(variant.repeats(stage, repeats)):
                step = stride if repeat == 0 else 1
                blocks.append(InvertedResidual(state, f"_blocks.{block}", side, step, expansion))
                side, block = math.ceil(side / step), block + 1
            built.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(built)
        self.taps = frozenset(stages)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        maps = []
        for stage, blocks in enumerate(self.stages, start=1):
            x = blocks(x)
            if stage in self.taps:
                maps.append(x)
        return tuple(maps)


class Patches(nn.Module):
    """Locally averaged features of two stages side by side (PatchCore, Roth et al., 2106.08265)."""

    def __init__(self, state: State, variant: Variant) -> None:
        super().__init__()
        self.trunk = EfficientNetLite(state, variant, PATCH_STAGES)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        maps = [functional.avg_pool2d(each, 3, stride=1, padding=1) for each in self.trunk(x)]
        side = int(maps[-1].shape[-1])  # a number in a traced graph too
        maps = [functional.adaptive_avg_pool2d(each, side) for each in maps]
        return (torch.cat([functional.normalize(each, dim=1) for each in maps], dim=1),)


def load_state(weights: Path) -> State:
    """The weights of a checkpoint in the layout of lukemelas/EfficientNet-PyTorch."""
    return cast(State, torch.load(weights, map_location="cpu", weights_only=True))
