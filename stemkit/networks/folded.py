"""SFIN for inference, with fewer operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from scipy import fft
from torch import Tensor, nn
from torch.nn import functional as F

from stemkit.networks.sfin import SFIN, FourierUnit, InteractiveBlock

__all__ = ["FoldedSFIN"]

#: Size of the strips that a CPU processes one after the other, bytes, so that they remain in its caches (chosen: times
#: for 1 to 8 MiB differ by 7 % at most).
STRIP = 2**23
#: Least number of rows of a strip, since each strip computes one additional row at either end (chosen).
FEWEST_ROWS = 16


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
    a matrix of frequencies by real and imaginary parts, and its 1x1 convolution is a matrix product without copies.

    References
    ----------
    .. [1] Jacob et al., CVPR 2018, section 3.2, https://arxiv.org/abs/1712.05877
    """

    def __init__(self, module: SFIN, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"):
        self.downsampling, self.dtype, self.device = module.downsampling, dtype, torch.device(device)
        on_cpu = self.device.type == "cpu"
        self.layout = torch.channels_last if on_cpu else torch.contiguous_format
        self.spectrum = _SpectrumOnCPU if on_cpu else _Spectrum
        with torch.no_grad():
            self.head, self.tail = (
                self._on_device(_affine(c), torch.float32) for c in (module.head_conv, module.tail_conv)
            )
            self.blocks = [(self._folded(block.conv1), self._folded(block.conv2)) for block in module.residual_blocks]

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
        head = F.conv2d(x.float().contiguous(memory_format=self.layout), self.head[0], self.head[1], padding=1)
        head = head.to(self.dtype, memory_format=self.layout)
        features, inner, outer = head.clone(), torch.empty_like(head), torch.empty_like(head)
        spectrum, rows = self.spectrum.empty(head.shape[1] // 2, head), _rows_at_once(head)
        for first, second in self.blocks:
            _interact(first, features, inner, spectrum, rows)
            _interact(second, inner, outer, spectrum, rows, onto=features)
        out = F.conv2d(features.add_(head).float(), self.tail[0], self.tail[1], padding=1)
        return F.pixel_shuffle(out, self.downsampling) if self.downsampling > 1 else out


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

    def put(self, start: int, strip: Tensor) -> None:
        """Set the features of a strip of rows that begins at ``start``."""
        self.features[:, start : start + strip.shape[1]] = strip

    def mix(self, mixing: Tensor) -> None:
        """Apply a Fourier unit to the features."""
        shape = (-1, 2, *self.rows.shape[1:])
        parts = self.rows[2:-1].view(shape).permute(0, 2, 3, 1)
        parts.copy_(torch.view_as_real(torch.fft.rfft2(self.features, norm="ortho")))
        torch.mm(mixing, self.rows.flatten(1), out=self.mixture).relu_()
        pairs = self.mixture.view(shape).permute(0, 2, 3, 1).contiguous()
        self.features.copy_(torch.fft.irfft2(torch.view_as_complex(pairs), s=self.features.shape[1:], norm="ortho"))


@dataclass
class _SpectrumOnCPU:
    """Working memory of the Fourier units with channels last.

    SciPy transforms subsets of rows or frequencies, so that each step reads its input from the caches.
    """

    #: Output features ``(channels, n_y, n_x)``.
    features: Tensor
    #: Spectrum along x, ``(n_y, n_x // 2 + 1, channels)``; torch copies to it in parallel.
    values: Tensor
    #: Coordinates of frequencies along y and x.
    f_y: Tensor
    f_x: Tensor

    @classmethod
    def empty(cls, channels: int, like: Tensor) -> _SpectrumOnCPU:
        n_y, n_x = like.shape[-2:]
        n_f = n_x // 2 + 1
        features = torch.empty(n_y, n_x, channels, dtype=like.dtype).permute(2, 0, 1)
        values = torch.empty(n_y, n_f, channels, dtype=torch.complex64)
        return cls(features, values, torch.linspace(0, 1, n_y)[:, None, None], torch.linspace(0, 1, n_f)[:, None])

    def put(self, start: int, strip: Tensor) -> None:
        """Set the features of a strip of rows that begins at ``start``."""
        rows = strip.permute(1, 2, 0).float().numpy()
        spectrum = fft.rfft(rows, axis=1, norm="ortho", workers=torch.get_num_threads())
        self.values[start : start + len(rows)] = torch.from_numpy(spectrum)

    def mix(self, mixing: Tensor) -> None:
        """Apply a Fourier unit to the features."""
        n_y, n_f, channels = self.values.shape
        weight_y, weight_x, weight, constant = mixing.T.split([1, 1, 2 * channels, 1])
        options = {"norm": "ortho", "workers": torch.get_num_threads()}
        values = self.values.numpy()
        for subset in _slices(n_f, values[:, :1].nbytes):
            spectrum = fft.fft(values[:, subset], axis=0, **options)
            parts = torch.view_as_real(torch.from_numpy(spectrum)).flatten(-2)
            mixed = torch.matmul(parts, weight).add_(self.f_x[subset] * weight_x + constant)
            mixed.addcmul_(self.f_y, weight_y).relu_()
            pairs = torch.view_as_complex(mixed.view(n_y, -1, channels, 2)).numpy()
            self.values[:, subset] = torch.from_numpy(fft.ifft(pairs, axis=0, overwrite_x=True, **options))
        for subset in _slices(n_y, values[:1].nbytes):
            back = fft.irfft(values[subset], n=self.features.shape[2], axis=1, **options)
            self.features[:, subset] = torch.from_numpy(back).permute(2, 0, 1)


def _slices(n: int, nbytes: int) -> list[slice]:
    """Slices of ``n`` items of ``nbytes`` bytes each, with up to ``STRIP`` bytes."""
    step = max(1, STRIP // nbytes)
    return [slice(start, min(n, start + step)) for start in range(0, n, step)]


def _interact(
    block: _Folded,
    features: Tensor,
    result: Tensor,
    spectrum: _Spectrum | _SpectrumOnCPU,
    rows: int,
    *,
    onto: Tensor | None = None,
) -> None:
    """Apply an interactive block to features; the result, of the same shape, is also added to ``onto``."""
    n_channels = features.shape[1]
    for start, stop, out in _convolved(features, block.weight, block.bias, rows):
        result[:, :, start:stop] = out[:, :n_channels]
        spectrum.put(start, out[0, n_channels:])
    spectrum.mix(block.mixing)
    for start, stop, out in _convolved(spectrum.features[None], block.from_unit, None, rows):
        strip = result[:, :, start:stop]
        strip[:, n_channels // 2 :] += out
        strip.relu_()
        if onto is not None:
            onto[:, :, start:stop] += strip


def _convolved(features: Tensor, weight: Tensor, bias: Tensor | None, rows: int) -> Iterator[tuple[int, int, Tensor]]:
    """Apply a 3 x 3 convolution in strips of rows; yields first row, last row + 1, and result."""
    n = features.shape[2]
    for start in range(0, n, rows):
        stop = min(n, start + rows)
        above, below = int(start > 0), int(stop < n)
        strip = features[:, :, start - above : stop + below].to(weight.dtype)
        out = F.conv2d(strip, weight, bias, padding=1)
        yield start, stop, out[:, :, above : above + stop - start]


def _rows_at_once(features: Tensor) -> int:
    """Number of rows of a strip."""
    _, n_channels, n_y, n_x = features.shape
    row = n_channels * 3 // 2 * n_x * features.element_size()
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
    """Factor and offset of a batch norm in evaluation."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale
