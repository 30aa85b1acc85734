"""SFIN on a CPU, in strips of rows and groups of frequencies that remain in its caches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from scipy import fft
from torch import Tensor
from torch.nn import functional as F

from stemkit.compute import workers

__all__ = ["BlockOnCPU", "maps_in_strips"]

#: Size of a strip's features, or of a group's spectrum, bytes (tuned: processor seconds differ by less than a tenth for
#: 0.5 to 8 MiB).
STRIP = 2**21
#: Least number of rows of a strip, since each computes two additional rows of the Fourier unit's output (chosen).
MIN_ROWS = 16

#: Function that applies another one to all strips, in parallel.
Run = Callable[[Callable[[slice], None], Iterable[slice]], object]


@dataclass(frozen=True)
class BlockOnCPU:
    """The weights of one interactive block, in the layout of oneDNN's convolutions.

    The convolutions to the halves and to the Fourier unit are separate, since the latter uses one half only.
    """

    #: Convolution of both halves to both halves, without the Fourier unit's contribution.
    weight: Tensor
    bias: Tensor
    #: Convolution of the frequency half to the Fourier unit's input.
    to_unit: Tensor
    unit_bias: Tensor
    #: Convolution of the Fourier unit's output to the frequency half.
    from_unit: Tensor
    #: Matrix of the Fourier unit, ``(2 * channels, 2 * channels)``.
    mixing: Tensor
    #: Its rows for the coordinates of the frequencies along y and x, and its constant, ``(1, 2 * channels)``.
    along_y: Tensor
    along_x: Tensor
    constant: Tensor

    @classmethod
    def from_weights(cls, weight: Tensor, bias: Tensor, from_unit: Tensor, mixing: Tensor) -> BlockOnCPU:
        """Create from a block's merged convolutions and matrix, see ``stemkit.networks.folded``."""
        half = len(from_unit)
        along_y, along_x, spectrum, constant = (part.contiguous() for part in mixing.T.split([1, 1, 2 * half, 1]))
        main, to_unit, from_unit = (
            part.clone().contiguous(memory_format=torch.channels_last)
            for part in (weight[: 2 * half], weight[2 * half :, half:], from_unit)
        )
        return cls(main, bias[: 2 * half], to_unit, bias[2 * half :], from_unit, spectrum, along_y, along_x, constant)


def maps_in_strips(
    image: Tensor,
    head: list[Tensor],
    blocks: list[tuple[BlockOnCPU, BlockOnCPU]],
    tail: list[Tensor],
    dtype: torch.dtype,
) -> Tensor:
    """Maps of one image.

    Parameters
    ----------
    image : Tensor of shape (1, n_inputs, n_y, n_x)
    head, tail : list of Tensor
        Weight and bias of the first and the last convolution, applied in single precision.
    blocks : list of pairs of BlockOnCPU
    dtype : torch.dtype
        Data type of features and of the other convolutions.

    Returns
    -------
    Tensor of shape (1, n_outputs, n_y, n_x)
        In single precision. It does not depend on the number of threads.

    Notes
    -----
    Each of torch's threads processes whole strips alone, so that threads wait for each other three times per block and
    not in each operation. Features have a row of zeros above and below, which is the padding of the convolutions.
    """
    with workers(torch.get_num_threads()) as run:
        given = F.pad(image.float(), (0, 0, 1, 1)).contiguous(memory_format=torch.channels_last)
        n_y, n_x = image.shape[-2:]
        first, features, inner = (_features(len(head[0]), n_y, n_x, dtype) for _ in range(3))
        strips = _slices(n_y, first[:, :, 0].nbytes, MIN_ROWS)

        def begin(strip: slice) -> None:
            first[:, :, _inside(strip)] = F.conv2d(
                given[:, :, _with_neighbors(strip)], head[0], head[1], padding=(0, 1)
            )

        _each(run, begin, strips)
        spectrum = _Spectrum.empty(len(head[0]) // 2, n_y, n_x)
        # the output of a block is added to its input; that of the head is used again in the end
        source = first
        for one, other in blocks:
            _interact(run, one, source, inner, spectrum, strips)
            _interact(run, other, inner, features, spectrum, strips, onto=source)
            source = features
        maps = torch.empty(1, len(tail[0]), n_y, n_x)

        def end(strip: slice) -> None:
            rows = _with_neighbors(strip)
            total = (source[:, :, rows] + first[:, :, rows]).float()
            maps[:, :, strip] = F.conv2d(total, tail[0], tail[1], padding=(0, 1))

        _each(run, end, strips)
    return maps


@dataclass
class _Spectrum:
    """Working memory of the Fourier units."""

    #: Transform along x, ``(n_y, n_x // 2 + 1, channels)``, complex.
    values: Tensor
    #: Coordinates of frequencies along y and x.
    f_y: Tensor
    f_x: Tensor
    #: Number of columns of the image.
    n_x: int

    @classmethod
    def empty(cls, channels: int, n_y: int, n_x: int) -> _Spectrum:
        n_f = n_x // 2 + 1
        values = torch.empty(n_y, n_f, channels, dtype=torch.complex64)
        return cls(values, torch.linspace(0, 1, n_y)[:, None, None], torch.linspace(0, 1, n_f)[:, None], n_x)

    def put(self, strip: slice, rows: Tensor) -> None:
        """Transform rows ``(channels, n, n_x)`` along x."""
        spectrum = fft.rfft(rows.permute(1, 2, 0).float().numpy(), axis=1, norm="ortho")
        self.values[strip] = torch.from_numpy(spectrum)

    def mix(self, block: BlockOnCPU, group: slice) -> None:
        """Transform a group of frequencies along y, apply the matrix of the Fourier unit, and transform back."""
        n_y, _, channels = self.values.shape
        spectrum = fft.fft(self.values[:, group].numpy(), axis=0, norm="ortho")
        parts = torch.view_as_real(torch.from_numpy(spectrum)).flatten(-2)
        mixed = torch.matmul(parts, block.mixing).add_(self.f_x[group] * block.along_x + block.constant)
        mixed.addcmul_(self.f_y, block.along_y).relu_()
        pairs = torch.view_as_complex(mixed.view(n_y, -1, channels, 2)).numpy()
        self.values[:, group] = torch.from_numpy(fft.ifft(pairs, axis=0, norm="ortho", overwrite_x=True))

    def rows(self, strip: slice, dtype: torch.dtype) -> Tensor:
        """Rows of a strip, transformed back, with one more row on either side; beyond the image it is 0."""
        n_y, _, channels = self.values.shape
        known = slice(max(0, strip.start - 1), min(n_y, strip.stop + 1))
        out = torch.zeros(strip.stop - strip.start + 2, self.n_x, channels, dtype=dtype)
        back = fft.irfft(self.values[known].numpy(), n=self.n_x, axis=1, norm="ortho")
        out[known.start - strip.start + 1 : known.stop - strip.start + 1] = torch.from_numpy(back)
        return out.permute(2, 0, 1)[None]


def _interact(
    run: Run,
    block: BlockOnCPU,
    given: Tensor,
    result: Tensor,
    spectrum: _Spectrum,
    strips: list[slice],
    *,
    onto: Tensor | None = None,
) -> None:
    """Apply an interactive block; ``result`` is its output, or the sum of this and ``onto``."""
    half = len(block.from_unit)

    def forward(strip: slice) -> None:
        unit = F.conv2d(given[:, half:, _with_neighbors(strip)], block.to_unit, block.unit_bias, padding=(0, 1))
        spectrum.put(strip, unit[0])

    def back(strip: slice) -> None:
        out = F.conv2d(given[:, :, _with_neighbors(strip)], block.weight, block.bias, padding=(0, 1))
        out[:, half:] += F.conv2d(spectrum.rows(strip, given.dtype), block.from_unit, padding=(0, 1))
        out.relu_()
        result[:, :, _inside(strip)] = out if onto is None else out.add_(onto[:, :, _inside(strip)])

    _each(run, forward, strips)
    groups = _slices(spectrum.values.shape[1], spectrum.values[:, 0].nbytes)
    _each(run, lambda group: spectrum.mix(block, group), groups)
    _each(run, back, strips)


def _each(run: Run, work: Callable[[slice], None], parts: list[slice]) -> None:
    """Process all parts, without gradients: torch has this mode per thread."""

    def one(part: slice) -> None:
        with torch.inference_mode():
            work(part)

    run(one, parts)


def _features(n_channels: int, n_y: int, n_x: int, dtype: torch.dtype) -> Tensor:
    """Features ``(1, n_channels, n_y + 2, n_x)`` with channels last in memory, and zeros in the outer rows."""
    out = torch.empty(n_y + 2, n_x, n_channels, dtype=dtype)
    out[0] = out[-1] = 0.0
    return out.permute(2, 0, 1)[None]


def _slices(n: int, nbytes: int, fewest: int = 1) -> list[slice]:
    """Slices of nearly equal length of ``n`` items of ``nbytes`` bytes each, with up to ``STRIP`` bytes."""
    count = -(-n // max(fewest, STRIP // nbytes))
    return [slice(n * i // count, n * (i + 1) // count) for i in range(count)]


def _with_neighbors(strip: slice) -> slice:
    """Rows of the features for a strip of the image and one more row on either side."""
    return slice(strip.start, strip.stop + 2)


def _inside(strip: slice) -> slice:
    """Rows of the features for a strip of the image."""
    return slice(strip.start + 1, strip.stop + 1)
