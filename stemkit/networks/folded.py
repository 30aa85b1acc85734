"""SFIN for inference, with fewer operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemkit.networks.sfin import SFIN, FourierUnit, InteractiveBlock
from stemkit.networks.strips import BlockOnCPU, maps_in_strips

__all__ = ["FoldedSFIN"]


class FoldedSFIN:
    """A trained SFIN with batch norms folded into the convolutions and operations in place.

    Normalisation with fixed statistics is an affine map, and can be combined with the preceding convolution [1]_. The
    1x1 convolution of the spectrum is one matrix product with the spectrum, its coordinates and a row of ones.

    Parameters
    ----------
    module : SFIN
        Weights and running statistics are copied.
    dtype : torch.dtype, default=torch.float32
        Data type of activations and convolutions. Spectra, the first and the last layer are in single precision.
    device : torch.device, default="cpu"

    Notes
    -----
    On a CPU the channels are the last axis in memory, which is the layout of oneDNN's convolutions. A spectrum is then
    a matrix of frequencies by real and imaginary parts, and its 1x1 convolution is a matrix product without copies. The
    image is processed in strips of rows that remain in the caches, one thread each.

    References
    ----------
    .. [1] Jacob et al., CVPR 2018, section 3.2, https://arxiv.org/abs/1712.05877
    """

    def __init__(self, module: SFIN, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"):
        self.downsampling, self.dtype, self.device = module.downsampling, dtype, torch.device(device)
        self.layout = torch.channels_last if self.device.type == "cpu" else torch.contiguous_format
        with torch.no_grad():
            self.head, self.tail = (
                self._on_device(_affine(c), torch.float32) for c in (module.head_conv, module.tail_conv)
            )
            self.blocks = [(self._folded(block.conv1), self._folded(block.conv2)) for block in module.residual_blocks]
            on_cpu = self.device.type == "cpu"
            self.blocks_on_cpu = [(_on_cpu(one), _on_cpu(other)) for one, other in self.blocks] if on_cpu else []

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Images ``(n, 1, n_y, n_x)`` to maps ``(n, n_outputs, n_y, n_x)``, single precision, image by image."""
        return torch.cat([self._maps(image[None]) for image in images])

    def _on_device(self, weights: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
        layouts = [self.layout if weight.ndim == 4 else torch.contiguous_format for weight in weights]
        return [
            weight.detach().to(self.device, dtype, copy=True).contiguous(memory_format=layout)
            for weight, layout in zip(weights, layouts, strict=True)
        ]

    def _folded(self, block: InteractiveBlock) -> _Folded:
        weights, mixing = _fold(block)
        weight, bias, from_unit = self._on_device(weights, self.dtype)
        return _Folded(weight, bias, from_unit, mixing.detach().to(self.device, copy=True))

    def _maps(self, image: Tensor) -> Tensor:
        x = F.pixel_unshuffle(image, self.downsampling) if self.downsampling > 1 else image
        if self.device.type == "cpu":
            out = maps_in_strips(x, self.head, self.blocks_on_cpu, self.tail, self.dtype)
        else:
            out = self._maps_at_once(x)
        return F.pixel_shuffle(out, self.downsampling) if self.downsampling > 1 else out

    def _maps_at_once(self, x: Tensor) -> Tensor:
        """Maps of one image on its coarser grid, all rows at once."""
        head = F.conv2d(x.float(), self.head[0], self.head[1], padding=1).to(self.dtype)
        features, inner, outer = head.clone(), torch.empty_like(head), torch.empty_like(head)
        spectrum = _Spectrum.empty(head.shape[1] // 2, head)
        for first, second in self.blocks:
            _interact(first, features, inner, spectrum)
            _interact(second, inner, outer, spectrum, onto=features)
        return F.conv2d(features.add_(head).float(), self.tail[0], self.tail[1], padding=1)


@dataclass
class _Folded:
    """The weights of one interactive block."""

    #: Convolution of both halves; outputs: spatial half, frequency half without the Fourier unit's contribution, input
    #: of the Fourier unit.
    weight: Tensor
    bias: Tensor
    #: Convolution of the Fourier unit's output.
    from_unit: Tensor
    #: Matrix of the Fourier unit; columns: coordinates y and x, real and imaginary parts of the spectrum, constant.
    mixing: Tensor


@dataclass
class _Spectrum:
    """Working memory of the Fourier units."""

    #: Features ``(channels, n_y, n_x)``, input and output.
    features: Tensor
    #: Factors of the matrix product: coordinates, alternating real and imaginary parts of the spectrum, ones.
    rows: Tensor
    mixture: Tensor

    @classmethod
    def empty(cls, channels: int, like: Tensor) -> _Spectrum:
        (n_y, n_x), device = like.shape[-2:], like.device
        rows = torch.empty(2 * channels + 3, n_y, n_x // 2 + 1, device=device)
        rows[0] = torch.linspace(0, 1, n_y, device=device)[:, None]
        rows[1] = torch.linspace(0, 1, n_x // 2 + 1, device=device)
        rows[-1] = 1.0
        features = torch.empty(channels, n_y, n_x, device=device)
        return cls(features, rows, torch.empty(2 * channels, n_y * (n_x // 2 + 1), device=device))

    def mix(self, mixing: Tensor) -> None:
        """Apply a Fourier unit to the features."""
        shape = (-1, 2, *self.rows.shape[1:])
        parts = self.rows[2:-1].view(shape).permute(0, 2, 3, 1)
        parts.copy_(torch.view_as_real(torch.fft.rfft2(self.features, norm="ortho")))
        torch.mm(mixing, self.rows.flatten(1), out=self.mixture).relu_()
        pairs = self.mixture.view(shape).permute(0, 2, 3, 1).contiguous()
        self.features.copy_(torch.fft.irfft2(torch.view_as_complex(pairs), s=self.features.shape[1:], norm="ortho"))


def _interact(
    block: _Folded, features: Tensor, result: Tensor, spectrum: _Spectrum, *, onto: Tensor | None = None
) -> None:
    """Apply an interactive block to features; the result, of the same shape, is also added to ``onto``."""
    n_channels = features.shape[1]
    out = F.conv2d(features, block.weight, block.bias, padding=1)
    result.copy_(out[:, :n_channels])
    spectrum.features.copy_(out[0, n_channels:])
    spectrum.mix(block.mixing)
    result[:, n_channels // 2 :] += F.conv2d(spectrum.features[None].to(features.dtype), block.from_unit, padding=1)
    result.relu_()
    if onto is not None:
        onto += result


def _on_cpu(block: _Folded) -> BlockOnCPU:
    return BlockOnCPU.from_weights(block.weight, block.bias, block.from_unit, block.mixing)


def _fold(block: InteractiveBlock) -> tuple[list[Tensor], Tensor]:
    half = block.ffc.channels
    (scale_l, shift_l), (scale_g, shift_g) = _scale(block.bn_l), _scale(block.bn_g)
    weight, bias, from_unit = block.ffc.merged()
    scale = torch.cat([scale_l, scale_g, torch.ones(half, device=weight.device)])
    shift = torch.cat([shift_l, shift_g, torch.zeros(half, device=weight.device)])
    weights = [weight * scale[:, None, None, None], bias * scale + shift, from_unit * scale_g[:, None, None, None]]
    return weights, _mixing(block.ffc.convg2g.fu)


def _affine(conv: nn.Conv2d) -> list[Tensor]:
    assert conv.bias is not None
    return [conv.weight, conv.bias]


def _mixing(unit: FourierUnit) -> Tensor:
    scale, shift = _scale(unit.bn)
    return torch.cat([unit.conv_layer.weight[:, :, 0, 0] * scale[:, None], shift[:, None]], dim=1)


def _scale(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Factor and offset of a batch norm in evaluation."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale
