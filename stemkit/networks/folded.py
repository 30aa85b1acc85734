"""SFIN for inference alone: the same maps with fewer operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemkit.networks.sfin import SFIN, FourierUnit, InteractiveBlock

__all__ = ["FoldedSFIN"]


class FoldedSFIN:
    """A trained SFIN whose batch norms are folded into its convolutions, and which works in place.

    Normalisation by known statistics is an affine map, as is the convolution before it [1]_; the 1x1 convolution of the
    spectrum is one matrix product with it, its coordinates and a row of ones.

    Parameters
    ----------
    module : SFIN
        Its running statistics are taken; later changes to it are not seen.
    dtype : torch.dtype, default=torch.float32
        Of features and convolutions. Spectra are in single precision.
    device : torch.device, default="cpu"
        Where it works.

    References
    ----------
    .. [1] Jacob et al., CVPR 2018, section 3.2, https://arxiv.org/abs/1712.05877
    """

    def __init__(self, module: SFIN, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"):
        self.downsampling, self.dtype, self.device = module.downsampling, dtype, torch.device(device)

        with torch.no_grad():
            self.head, self.tail = self._here(_affine(module.head_conv)), self._here(_affine(module.tail_conv))
            self.blocks = [(self._folded(block.conv1), self._folded(block.conv2)) for block in module.residual_blocks]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Images ``(n, 1, n_y, n_x)`` to maps ``(n, n_outputs, n_y, n_x)``, single precision; one after the other."""
        return torch.cat([self._maps(image[None]) for image in images])

    def _here(self, weights: Sequence[Tensor]) -> list[Tensor]:
        return [weight.detach().to(self.device, self.dtype, copy=True) for weight in weights]

    def _folded(self, block: InteractiveBlock) -> _Folded:
        weights, mixing = _fold(block)
        weight, bias, from_unit = self._here(weights)
        return _Folded(weight, bias, from_unit, mixing.detach().to(self.device, copy=True))

    def _maps(self, image: Tensor) -> Tensor:
        x = F.pixel_unshuffle(image, self.downsampling) if self.downsampling > 1 else image
        head = F.conv2d(x.to(self.dtype), self.head[0], self.head[1], padding=1)
        spectrum = _Spectrum.empty(head.shape[1] // 2, head.shape[-2:], head.device)
        features = head
        for first, second in self.blocks:
            inner = _interact(first, features, spectrum)
            features = _interact(second, inner, spectrum).add_(features)
        out = F.conv2d(features + head, self.tail[0], self.tail[1], padding=1).float()
        return F.pixel_shuffle(out, self.downsampling) if self.downsampling > 1 else out


@dataclass
class _Folded:
    """The weights of one interactive block."""

    #: What reads both halves: the spatial half, the frequency half before its Fourier unit's share, the unit's input.
    weight: Tensor
    bias: Tensor
    #: What reads the Fourier unit's output.
    from_unit: Tensor
    #: The unit: coordinates down and across, parts of the spectrum, one.
    mixing: Tensor


@dataclass
class _Spectrum:
    """Rows that a Fourier unit mixes, used by one after the other: coordinates, spectrum, ones."""

    rows: Tensor
    n_y: int
    n_x: int

    @classmethod
    def empty(cls, channels: int, shape: torch.Size, device: torch.device) -> _Spectrum:
        n_y, n_x = shape
        rows = torch.empty(2 * channels + 3, n_y, n_x // 2 + 1, device=device)
        rows[0] = torch.linspace(0, 1, n_y, device=device)[:, None]
        rows[1] = torch.linspace(0, 1, n_x // 2 + 1, device=device)
        rows[-1] = 1.0
        return cls(rows, n_y, n_x)

    def mixed(self, features: Tensor, mixing: Tensor) -> Tensor:
        """The Fourier unit of features ``(channels, n_y, n_x)``."""
        values = torch.fft.rfft2(features, norm="ortho")
        # real and imaginary parts are rows of their own
        parts = (len(features), 2, *values.shape[1:])
        self.rows[2:-1].view(parts).copy_(torch.view_as_real(values).permute(0, 3, 1, 2))
        mixed = torch.mm(mixing, self.rows.flatten(1)).relu_().view(parts)
        torch.view_as_real(values).copy_(mixed.permute(0, 2, 3, 1))
        return torch.fft.irfft2(values, s=(self.n_y, self.n_x), norm="ortho")


def _interact(block: _Folded, features: Tensor, spectrum: _Spectrum) -> Tensor:
    width = features.shape[1]
    out = F.conv2d(features, block.weight, block.bias, padding=1)
    v = spectrum.mixed(out[0, width:].float(), block.mixing).to(out.dtype)
    out[:, width // 2 : width] += F.conv2d(v[None], block.from_unit, padding=1)
    return out[:, :width].relu_()


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
    """A batch norm in evaluation as a factor and an offset."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale
