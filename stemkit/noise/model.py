"""Noise model of a scanning transmission electron microscope: frozen dataclasses, and drawing their noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
import xarray as xr

from stemkit.compute import seed_from, torch_generator
from stemkit.images.containers import Images, float_dtype, join, split
from stemkit.images.mode import mode_sign
from stemkit.noise.drawing import NoiseParameters, add_noise
from stemkit.noise.scan import ScanNoise
from stemkit.parameters import MODES, check_number, check_option, check_positive

__all__ = ["BackgroundNoise", "Digitization", "NoiseModel", "PointwiseNoise", "ScanNoise"]

#: Distributions of the pointwise noise.
KINDS = ("tukey", "poisson")
#: Displacements of the beam, the same names in ``ScanNoise`` and ``NoiseParameters``.
DISPLACEMENTS = ("jitter", "jitter_y", "jitter_length", "drift", "drift_y", "drift_rows", "hum", "hum_y", "hum_period")
#: Names of parts in files of earlier versions.
EARLIER_NAMES = {"detector": "digitization"}


@dataclass(frozen=True)
class BackgroundNoise:
    """A smooth random background: support film, contamination, uneven illumination.

    It is white noise filtered with a Gaussian of sigma ``length`` in both directions: its autocovariance at the
    distance r is ``amplitude^2 exp(-r^2 / (4 length^2))``.

    Parameters
    ----------
    amplitude : float, default=0
        Standard deviation, as a fraction of the contrast.
    length : float, default=32
        Sigma of the Gaussian filter, px.

    Raises
    ------
    ValueError
        If ``amplitude`` is negative, ``length`` is not positive, or one of them is not finite.
    """

    amplitude: float = 0.0
    length: float = 32.0

    def __post_init__(self) -> None:
        check_number("amplitude of BackgroundNoise", self.amplitude, 0)
        check_positive("length of BackgroundNoise", self.length)


@dataclass(frozen=True)
class PointwiseNoise:
    """Noise of single pixels: electronics and counting.

    With ``s = (I_true - level) / contrast`` its variance in units of the contrast squared is
    ``max(readout^2 + gain * s, 0)``.

    Parameters
    ----------
    readout : float, default=0
        Standard deviation at the background's level, as a fraction of the contrast.
    gain : float, default=0
        Growth of the variance per unit of signal, as a fraction of the contrast squared; negative in bf, where columns
        are dark.
    shape : float, default=0.14
        Tukey lambda of the distribution [1]_ (> -0.4): 0 is logistic, 0.14 nearly normal, smaller has heavier tails.
    correlation_x : float, default=0
        Correlation of neighbouring pixels along the row (afterglow, bandwidth of the amplifier), between -1 and 1.
    kind : {"tukey", "poisson"}, default="tukey"
        ``"poisson"`` counts electrons: with v = readout^2 + gain s, n ~ Poisson(v / gain^2) and the signal is
        ``gain n - readout^2 / gain``. It does not use ``shape``; a ``correlation_x`` distributes the excess of each
        pixel's count over its expectation along the row, at the same variance.

    Raises
    ------
    ValueError
        If a number is outside its range, ``kind`` is unknown, or ``gain`` is 0 for counted electrons.

    References
    ----------
    .. [1] Joiner and Rosenblatt, "Some properties of the range in samples from Tukey's symmetric lambda
       distributions", J. Am. Stat. Assoc. 66, 394 (1971), https://doi.org/10.1080/01621459.1971.10482275
    """

    readout: float = 0.0
    gain: float = 0.0
    shape: float = 0.14
    correlation_x: float = 0.0
    kind: str = "tukey"

    def __post_init__(self) -> None:
        check_number("readout of PointwiseNoise", self.readout, 0)
        check_number("gain of PointwiseNoise", self.gain)
        if not -0.4 < self.shape < math.inf:
            raise ValueError(f"shape of PointwiseNoise must be a finite number above -0.4, but is {self.shape!r}")
        if not -1 < self.correlation_x < 1:
            raise ValueError(
                f"correlation_x of PointwiseNoise must be between -1 and 1, exclusive, but is {self.correlation_x!r}"
            )
        check_option("kind", self.kind, KINDS)
        if self.kind == "poisson" and self.gain == 0:
            raise ValueError("gain must not be 0 for counted electrons: give the signal of one electron")

    @classmethod
    def counted(cls, dose: float, *, background: float = 0.0, mode: str = "haadf") -> PointwiseNoise:
        """The noise of counted electrons alone.

        Parameters
        ----------
        dose : float
            Expected electrons per pixel at the brightest column, above the background; in bf the number by which the
            darkest column is below the background.
        background : float, default=0
            Expected electrons per pixel of the background; in bf at least ``dose``.
        mode : {"haadf", "bf"}, default="haadf"

        Raises
        ------
        ValueError
            If an expectation would be negative somewhere.

        Examples
        --------
        >>> from stemkit import PointwiseNoise
        >>> PointwiseNoise.counted(25.0).gain
        0.04
        """
        check_positive("dose", dose, unit="electrons per pixel")
        check_option("mode", mode, MODES)
        least = dose if mode == "bf" else 0.0
        if not (math.isfinite(background) and background >= least):
            raise ValueError(
                f"background must be at least {least:g} electrons per pixel, but is {background!r}: nowhere are "
                "fewer than no electrons expected"
            )
        return cls(readout=math.sqrt(background) / dose, gain=-1 / dose if mode == "bf" else 1 / dose, kind="poisson")


@dataclass(frozen=True)
class Digitization:
    """Digitisation of the signal: digital levels, and clipping at the ends of the range.

    Parameters
    ----------
    low, high : float, optional
        Ends of the range, in the units of the image; values beyond them are clipped. None: no clipping.
    step : float, optional
        Distance of the digital levels, in the units of the image, counted from ``low`` (from 0 without it). None: no
        levels.

    Raises
    ------
    ValueError
        If a number is not finite, ``step`` is not positive, or ``low`` is not below ``high``.
    """

    low: float | None = None
    high: float | None = None
    step: float | None = None

    def __post_init__(self) -> None:
        check_number("low of Digitization", self.low, optional=True)
        check_number("high of Digitization", self.high, optional=True)
        check_positive("step", self.step, optional=True)
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low must be below high, but they are {self.low!r} and {self.high!r}")


@dataclass(frozen=True)
class NoiseModel:
    """Noise between the true image and the recorded one.

    A smooth background is added to the true image, the beam is displaced while it scans it, each pixel has noise of
    its own, streaks are added to the rows, and the sum is digitised.

    Parameters
    ----------
    contrast : float, default=1
        Amplitude of the brightest sublattice's columns, in the units of the image. The amplitudes of the parts are
        fractions of it.
    level : float, default=0
        Intensity of the background, in the units of the image.
    mode : {"haadf", "bf"}, default="haadf"
        Bright or dark columns.
    background : BackgroundNoise
    scan : ScanNoise
    pointwise : PointwiseNoise
    digitization : Digitization

    Raises
    ------
    ValueError
        If ``contrast`` is not positive, ``level`` is not finite, or ``mode`` is unknown.

    See Also
    --------
    NoiseCalibrator : measures the model from an image.

    Notes
    -----
    The model of [1]_, with the displacement of the beam in place of streaks that grow with the gradient, and with
    correlation along the row and counted electrons added.

    References
    ----------
    .. [1] Li, Wu, Shao, Zhang, Fu, "Noise Calibration and Spatial-Frequency Interactive Network for STEM Image
       Enhancement", CVPR 2025, https://arxiv.org/abs/2504.02555

    Examples
    --------
    >>> import numpy as np
    >>> from stemkit import NoiseModel, PointwiseNoise
    >>> model = NoiseModel(contrast=100.0, level=20.0, pointwise=PointwiseNoise(readout=0.1))
    >>> noisy = model.apply(np.full((64, 64), 20.0), random_state=0)
    >>> bool(abs(noisy.std() - 10.0) < 1.0)
    True
    """

    contrast: float = 1.0
    level: float = 0.0
    mode: str = "haadf"
    background: BackgroundNoise = field(default_factory=BackgroundNoise)
    scan: ScanNoise = field(default_factory=ScanNoise)
    pointwise: PointwiseNoise = field(default_factory=PointwiseNoise)
    digitization: Digitization = field(default_factory=Digitization)

    def __post_init__(self) -> None:
        check_positive("contrast of NoiseModel", self.contrast)
        check_number("level of NoiseModel", self.level)
        check_option("mode", self.mode, MODES)

    def apply(self, image: Images, random_state: int | np.random.RandomState | None = None) -> Images:
        """Draw this noise onto true images.

        Parameters
        ----------
        image : DataArray, ndarray or list of them
            True images, in the units of ``contrast`` and ``level``.
        random_state : int, RandomState or None
            Seed; the same seed gives the same noise.

        Returns
        -------
        Same type as ``image``
        """
        seeds = np.random.default_rng(seed_from(random_state))
        return join([self._apply_one(one, int(seeds.integers(2**62))) for one in split(image, name="image")], image)

    def variance(self, image: Images) -> Images:
        """Expected variance of the pointwise noise at each pixel of a true image, in its units squared."""

        def one(true_image: xr.DataArray) -> xr.DataArray:
            signal = (true_image.values.astype(np.float64) - self.level) / self.contrast * mode_sign(self.mode)
            relative = np.maximum(self.pointwise.readout**2 + self.pointwise.gain * signal, 0.0)
            return true_image.copy(data=(relative * self.contrast**2).astype(float_dtype(true_image.dtype)))

        return join([one(true_image) for true_image in split(image, name="image")], image)

    @property
    def dose(self) -> float:
        """Electrons per pixel at the brightest column, above the background, if the signal-dependent noise is that of
        counting: ``1 / |gain|``; ``inf`` where the noise does not depend on the signal.
        """
        return 1 / abs(self.pointwise.gain) if self.pointwise.gain else math.inf

    def dose_per_area(self, pixel_size: float) -> float:
        """``dose`` in electrons per square angstrom, for a pixel size in nm."""
        check_positive("pixel_size", pixel_size, unit="nm")
        return self.dose / (10 * pixel_size) ** 2

    def to_dict(self) -> dict[str, Any]:
        """The model as plain numbers and strings, for JSON: an infinite length is the string ``"inf"``."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NoiseModel:
        """The model that :meth:`to_dict` described.

        Parameters
        ----------
        values : mapping
            Numbers that are missing have their defaults. ``"detector"`` is read as ``"digitization"``, its name in
            files of earlier versions.

        Raises
        ------
        ValueError
            If ``values`` contains anything else, or a number outside its range.
        """
        parts = {
            "background": BackgroundNoise,
            "scan": ScanNoise,
            "pointwise": PointwiseNoise,
            "digitization": Digitization,
        }
        values = {EARLIER_NAMES.get(k, k): v for k, v in values.items()}
        known = {f.name for f in fields(cls)}
        unknown = set(values) - known
        if unknown:
            raise ValueError(f"a noise model has no {sorted(unknown)}: its parts are {sorted(known)}")
        return cls(**{k: parts[k](**_numbers(v)) if k in parts else _number(v) for k, v in values.items()})

    def parameters(self, n_images: int = 1, dtype: torch.dtype = torch.float64) -> NoiseParameters:
        """The model as tensors for :func:`stemkit.noise.drawing.add_noise`, the same for each image."""
        numbers = {
            **{name: getattr(self.scan, name) for name in DISPLACEMENTS},
            **{name: getattr(self.pointwise, name) for name in ("readout", "gain", "shape", "correlation_x")},
            **self._relative_digitization(),
            "background": self.background.amplitude,
            "background_length": self.background.length,
            "streaks": self.scan.amplitude,
            "streak_length": self.scan.length,
            "short_streaks": self.scan.short_amplitude,
            "short_streak_length": self.scan.short_length,
        }
        tensors = {k: torch.full((n_images,), float(v), dtype=dtype) for k, v in numbers.items()}
        poisson = torch.full((n_images,), self.pointwise.kind == "poisson")
        return NoiseParameters(**tensors, poisson=poisson)

    def _relative_digitization(self) -> dict[str, float]:
        """The digitisation in units of the contrast, columns bright; NaN for parameters that are not set."""
        digitization, sign = self.digitization, mode_sign(self.mode)

        def relative(value: float | None) -> float:
            return math.nan if value is None else (value - self.level) / (sign * self.contrast)

        ends = [relative(digitization.low), relative(digitization.high)]
        # the sign of dark columns is inverted: the lower end becomes the upper one
        low, high = ends if sign > 0 else ends[::-1]
        step = math.nan if digitization.step is None else digitization.step / self.contrast
        return {"low": low, "high": high, "step": step, "step_origin": relative(digitization.low or 0.0)}

    def _apply_one(self, true_image: xr.DataArray, seed: int) -> xr.DataArray:
        sign = mode_sign(self.mode)
        signal = torch.as_tensor((true_image.values.astype(np.float64) - self.level) / (self.contrast * sign))[None]
        noisy = add_noise(signal, self.parameters(), torch_generator(seed))[0].numpy()
        values = noisy * (sign * self.contrast) + self.level
        return true_image.copy(data=values.astype(float_dtype(true_image.dtype)))


# --- plain numbers -------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, str) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _number(v) for k, v in values.items()}


def _number(value: Any) -> Any:
    return math.inf if value == "inf" else value
