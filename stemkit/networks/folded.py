"""SFIN for inference alone: the same maps with fewer operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemkit.networks.sfin import SFIN, FourierUnit, InteractiveBlock

__all__ = ["FoldedSFIN"]

#: Bytes of what a CPU works on at once: as much as stays in its caches, and comes from memory that was used before.
#: Fewest rows of a convolution: each strip works on two of its neighbours' rows again.
STRIP, FEWEST_ROWS = 2**23, 16


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
        half = head.shape[1] // 2
        inner, other = torch.empty_like(head), torch.empty_like(head)
        spectrum, rows = _Spectrum.empty(half, head.shape[-2:], head.device), _rows_at_once(head)
        features = head.clone()
        for first, second in self.blocks:
            _interact(first, features, inner, spectrum, rows)
            _interact(second, inner, other, spectrum, rows)
            features.add_(other)
        out = F.conv2d(features.add_(head), self.tail[0], self.tail[1], padding=1).float()
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
    """What Fourier units work in, one after the other."""

    #: Features, before and after.
    features: Tensor
    #: What is mixed: coordinates, the spectrum's real and imaginary parts in turn, ones.
    rows: Tensor
    mixture: Tensor

    @classmethod
    def empty(cls, channels: int, shape: torch.Size, device: torch.device) -> _Spectrum:
        n_y, n_x = shape
        rows = torch.empty(2 * channels + 3, n_y, n_x // 2 + 1, device=device)
        rows[0] = torch.linspace(0, 1, n_y, device=device)[:, None]
        rows[1] = torch.linspace(0, 1, n_x // 2 + 1, device=device)
        rows[-1] = 1.0
        features = torch.empty(channels, n_y, n_x, device=device)
        return cls(features, rows, torch.empty(2 * channels, n_y * (n_x // 2 + 1), device=device))

    def mix(self, mixing: Tensor) -> None:
        """Put the features through a Fourier unit."""
        shape = (-1, 2, *self.rows.shape[1:])
        parts = self.rows[2:-1].view(shape).permute(0, 2, 3, 1)
        for some in self._groups():
            parts[some] = torch.view_as_real(torch.fft.rfft2(self.features[some], norm="ortho"))
        torch.mm(mixing, self.rows.flatten(1), out=self.mixture).relu_()
        parts = self.mixture.view(shape).permute(0, 2, 3, 1)
        for some in self._groups():
            values = torch.view_as_complex(parts[some].contiguous())
            self.features[some] = torch.fft.irfft2(values, s=self.features.shape[1:], norm="ortho")

    def _groups(self) -> list[slice]:
        """Channels that are transformed at once."""
        n, size = len(self.features), self.features[0].numel() * self.features.element_size()
        step = max(1, STRIP // size) if self.features.device.type == "cpu" else n
        return [slice(start, start + step) for start in range(0, n, step)]


def _interact(block: _Folded, features: Tensor, result: Tensor, spectrum: _Spectrum, rows: int) -> None:
    """An interactive block, from features to a result of their shape."""
    width = features.shape[1]
    for start, stop, out in _convolved(features, block.weight, block.bias, rows):
        result[:, :, start:stop] = out[:, :width]
        spectrum.features[:, start:stop] = out[0, width:]
    spectrum.mix(block.mixing)
    for start, stop, out in _convolved(spectrum.features[None].to(features.dtype), block.from_unit, None, rows):
        result[:, width // 2 :, start:stop] += out
    result.relu_()


def _convolved(features: Tensor, weight: Tensor, bias: Tensor | None, rows: int) -> Iterator[tuple[int, int, Tensor]]:
    """A 3 x 3 convolution, some rows at a time: the first row, the one after the last, and what comes out."""
    n = features.shape[2]
    for start in range(0, n, rows):
        stop = min(n, start + rows)
        above, below = int(start > 0), int(stop < n)
        out = F.conv2d(features[:, :, start - above : stop + below], weight, bias, padding=1)
        yield start, stop, out[:, :, above : above + stop - start]


def _rows_at_once(features: Tensor) -> int:
    """Rows that are convolved at once."""
    _, width, n_y, n_x = features.shape
    row = width * 3 // 2 * n_x * features.element_size()
    return max(FEWEST_ROWS, STRIP // row) if features.device.type == "cpu" else n_y


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
