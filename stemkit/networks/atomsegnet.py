"""AtomSegNet, a U-Net of three levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["AtomSegNet"]

#: Levels of the U-Net (reference [1] of :class:`AtomSegNet`).
LEVELS = 3


class AtomSegNet(nn.Module):
    """U-Net of three levels with a sigmoid output.

    Parameters
    ----------
    n_outputs : int, default=1
        Output channels (maps).
    n_channels : int, default=64
        Feature channels of the first level; each further one has twice as many.
    output_range : (float, float), default=(0, 1)
        Output values at 0 and 1 of the sigmoid.

    Notes
    -----
    The architecture is that of [1]_: two 3 x 3 convolutions with batch norm and ReLU at each level; max-pooling in the
    encoder; bilinear interpolation, a 1 x 1 convolution and batch norm in the decoder; batch norm after each
    concatenation. Height and width of the input must be multiples of 4.

    References
    ----------
    .. [1] Lin, Zhang, Wang, Yang, Xin, "TEMImageNet training library and AtomSegNet deep-learning models for
       high-precision atom segmentation, localization, denoising, and deblurring of atomic-resolution images", Sci. Rep.
       11, 5386 (2021), https://doi.org/10.1038/s41598-021-84499-w
    """

    def __init__(self, n_outputs: int = 1, n_channels: int = 64, output_range: tuple[float, float] = (0.0, 1.0)):
        super().__init__()
        if n_channels < 1:
            raise ValueError(f"n_channels must be at least 1, but is {n_channels!r}")
        if not output_range[0] < output_range[1]:
            raise ValueError(f"output_range must rise from the first number to the second, but is {output_range!r}")
        self.low, self.span = float(output_range[0]), float(output_range[1]) - float(output_range[0])
        widths = [n_channels * 2**level for level in range(LEVELS)]
        self.down = nn.ModuleList(_pair(n_in, n_out) for n_in, n_out in zip([1, *widths], widths, strict=False))
        self.pool = nn.MaxPool2d(2)
        steps_up = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.rise = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                nn.Conv2d(n_in, n_out, 1),
                nn.BatchNorm2d(n_out),
            )
            for n_in, n_out in steps_up
        )
        self.join = nn.ModuleList(nn.BatchNorm2d(2 * n_out) for _, n_out in steps_up)
        self.up = nn.ModuleList(_pair(2 * n_out, n_out) for _, n_out in steps_up)
        last = nn.BatchNorm2d(n_outputs)
        if self.low < 0 < self.low + self.span:  # initial outputs have mean 0 and standard deviation 1
            zero = -self.low / self.span
            nn.init.constant_(last.bias, math.log(zero / (1 - zero)))
            nn.init.constant_(last.weight, 1 / (self.span * zero * (1 - zero)))
        self.out = nn.Sequential(nn.Conv2d(n_channels, n_outputs, 1), nn.ReLU(), last, nn.Sigmoid())

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(n, 1, n_y, n_x)`` to maps ``(n, n_outputs, n_y, n_x)``."""
        levels: list[Tensor] = []
        features = images
        for level, block in enumerate(self.down):
            features = block(self.pool(features) if level else features)
            levels.append(features)
        levels.pop()
        for rise, join, block in zip(self.rise, self.join, self.up, strict=True):
            features = block(join(torch.cat([levels.pop(), rise(features)], dim=1)))
        maps: Tensor = self.low + self.span * self.out(features)
        return maps


def _pair(n_in: int, n_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers += [nn.Conv2d(n, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU()]
    return nn.Sequential(*layers)
