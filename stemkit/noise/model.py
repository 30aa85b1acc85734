"""The noise of a scanning microscope as frozen dataclasses that draw it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from stemkit.compute import seed_from, torch_generator
from stemkit.images import MODES, Images, float_dtype, join, mode_sign, split
from stemkit.noise.drawing import NoiseParameters, add_noise
from stemkit.noise.scan import ScanNoise
from stemkit.noise.validation import above, correlation, finite, finite_or_none, not_negative, positive, require

__all__ = ["BackgroundNoise", "Detector", "NoiseModel", "PointwiseNoise", "ScanNoise"]

KINDS = ("tukey", "poisson")


@dataclass(frozen=True)
class BackgroundNoise:
    """A smooth random background: support, contamination, uneven illumination.

    Parameters
    ----------
    amplitude : float
        Standard deviation, as a fraction of the contrast.
    length : float
        Sigma in px of the Gaussian that white noise is filtered with.
    """

    amplitude: float = 0.0
    length: float = 32.0

    def __post_init__(self) -> None:
        require(self, amplitude=not_negative, length=positive)


@dataclass(frozen=True)
class PointwiseNoise:
    """Noise of single pixels: electronics and counting.

    With ``s = (I_clean - level) / contrast`` its variance in units of the contrast squared is
    ``max(readout^2 + gain * s, 0)``.

    Parameters
    ----------
    readout : float
        Standard deviation at the background's level, as a fraction of the contrast.
    gain : float
        Growth of the variance per unit of signal; negative in bf, where columns are dark.
    shape : float
        Tukey lambda of the distribution (> -0.4): 0 is logistic, 0.14 nearly normal, smaller has heavier tails.
    correlation_x : float
        Correlation of neighbours along the row (afterglow, bandwidth of the amplifier).
    kind : {"tukey", "poisson"}
        ``"poisson"`` counts electrons: with v = readout^2 + gain s, n ~ Poisson(v / gain^2) and the signal is
        ``gain n - readout^2 / gain``. It has no ``shape`` of its own; a ``correlation_x`` spreads what each pixel
        counted too many or too few along the row, at the same variance.
    """

    readout: float = 0.0
    gain: float = 0.0
    shape: float = 0.14
    correlation_x: float = 0.0
    kind: str = "tukey"

    def __post_init__(self) -> None:
        require(self, readout=not_negative, gain=finite, shape=above(-0.4), correlation_x=correlation)
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, but is {self.kind!r}")
        if self.kind == "poisson" and self.gain == 0:
            raise ValueError("gain must not be 0 for counted electrons: give the signal of one electron")

    @classmethod
    def counted(cls, dose: float, *, background: float = 0.0, mode: str = "haadf") -> PointwiseNoise:
        """The noise of counted electrons alone.

        Parameters
        ----------
        dose : float
            Expected electrons per pixel at the brightest column, above the background; in bf the contrast in
            electrons, which the darkest column takes away.
        background : float
            Expected electrons per pixel of the background; in bf at least ``dose``.
        mode : {"haadf", "bf"}

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
        if not (math.isfinite(dose) and dose > 0):
            raise ValueError(f"dose must be a positive number of electrons per pixel, but is {dose!r}")
        least = dose if mode == "bf" else 0.0
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, but is {mode!r}")
        if not (math.isfinite(background) and background >= least):
            raise ValueError(
                f"background must be at least {least:g} electrons per pixel, but is {background!r}: nowhere are "
                "fewer than no electrons expected"
            )
        return cls(readout=math.sqrt(background) / dose, gain=-1 / dose if mode == "bf" else 1 / dose, kind="poisson")


@dataclass(frozen=True)
class Detector:
    """What the digitiser does to the signal, in the image's units; None leaves that step out.

    Parameters
    ----------
    low, high : float, optional
        Values beyond these are clipped.
    step : float, optional
        Distance of the digital levels, counted from ``low`` (from 0 without it).
    """

    low: float | None = None
    high: float | None = None
    step: float | None = None

    def __post_init__(self) -> None:
        require(self, low=finite_or_none, high=finite_or_none, step=finite_or_none)
        if self.step is not None and not self.step > 0:
            raise ValueError(f"step must be positive or None, but is {self.step!r}")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low must be below high, but they are {self.low!r} and {self.high!r}")


@dataclass(frozen=True)
class NoiseModel:
    """Everything that stands between the ideal image and the recorded one.

    Parameters
    ----------
    contrast : float
        Amplitude of the brightest sublattice's columns, in the image's units. Every amplitude below is a fraction
        of it.
    level : float
        The background's level, in the image's units.
    mode : {"haadf", "bf"}
        Bright or dark columns.
    background : BackgroundNoise
    scan : ScanNoise
    pointwise : PointwiseNoise
    detector : Detector

    Notes
    -----
    The model of [1]_, with the displacement of the beam in place of streaks that grow with the gradient, and
    with correlation along the row and counted electrons added.

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
    detector: Detector = field(default_factory=Detector)

    def __post_init__(self) -> None:
        require(self, contrast=positive, level=finite)
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, but is {self.mode!r}")

    def apply(self, image: Images, random_state: int | np.random.RandomState | None = None) -> Images:
        """Draw this noise onto clean images.

        Parameters
        ----------
        image : DataArray, ndarray or list of them
            Clean images, in the units of ``contrast`` and ``level``.
        random_state : int, RandomState or None
            Seed; the same seed gives the same noise.

        Returns
        -------
        Same type as ``image``
        """
        seeds = np.random.default_rng(seed_from(random_state))
        return join([self._apply_one(one, int(seeds.integers(2**62))) for one in split(image, name="image")], image)

    def variance(self, image: Images) -> Images:
        """Expected variance of the pointwise noise at each pixel of a clean image, in its units squared."""

        def one(clean: xr.DataArray) -> xr.DataArray:
            signal = (clean.values.astype(np.float64) - self.level) / self.contrast * mode_sign(self.mode)
            relative = np.maximum(self.pointwise.readout**2 + self.pointwise.gain * signal, 0.0)
            return clean.copy(data=(relative * self.contrast**2).astype(float_dtype(clean.dtype)))

        return join([one(clean) for clean in split(image, name="image")], image)

    @property
    def dose(self) -> float:
        """Electrons per pixel at the brightest column, above the background, if the signal-dependent noise is that of
        counting: ``1 / |gain|``; ``inf`` where the noise does not depend on the signal.
        """
        return 1 / abs(self.pointwise.gain) if self.pointwise.gain else math.inf

    def dose_per_area(self, pixel_size: float) -> float:
        """``dose`` in electrons per square angstrom, for a pixel size in nm."""
        if not (math.isfinite(pixel_size) and pixel_size > 0):
            raise ValueError(f"pixel_size must be a positive number of nm, but is {pixel_size!r}")
        return self.dose / (10 * pixel_size) ** 2

    def to_dict(self) -> dict[str, Any]:
        """The model as plain numbers and strings, for JSON: an infinite length is the string ``"inf"``."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NoiseModel:
        """The model that :meth:`to_dict` described; numbers that are not in ``values`` have their defaults."""
        parts = {"background": BackgroundNoise, "scan": ScanNoise, "pointwise": PointwiseNoise, "detector": Detector}
        known = {f.name for f in fields(cls)}
        unknown = set(values) - known
        if unknown:
            raise ValueError(f"a noise model has no {sorted(unknown)}: its parts are {sorted(known)}")
        return cls(**{k: parts[k](**_numbers(v)) if k in parts else _number(v) for k, v in values.items()})

    def parameters(self, n_images: int = 1, dtype: torch.dtype = torch.float64) -> NoiseParameters:
        """The model as tensors for :func:`stemkit.noise.drawing.add_noise`, the same for each image."""
        sign = mode_sign(self.mode)
        low, high = (_relative(v, self.level, sign * self.contrast) for v in (self.detector.low, self.detector.high))
        if sign < 0:  # flipped contrast turns the lower end into the upper one
            low, high = high, low
        origin = _relative(self.detector.low or 0.0, self.level, sign * self.contrast)
        step = math.nan if self.detector.step is None else self.detector.step / self.contrast
        numbers = {
            "background": self.background.amplitude,
            "background_length": self.background.length,
            "streaks": self.scan.amplitude,
            "streak_length": self.scan.length,
            "jitter": self.scan.jitter,
            "jitter_length": self.scan.jitter_length,
            "jitter_y": self.scan.jitter_y,
            "drift": self.scan.drift,
            "drift_y": self.scan.drift_y,
            "drift_rows": self.scan.drift_rows,
            "hum": self.scan.hum,
            "hum_y": self.scan.hum_y,
            "hum_period": self.scan.hum_period,
            "short_streaks": self.scan.short_amplitude,
            "short_streak_length": self.scan.short_length,
            "readout": self.pointwise.readout,
            "gain": self.pointwise.gain,
            "shape": self.pointwise.shape,
            "correlation_x": self.pointwise.correlation_x,
            "low": low,
            "high": high,
            "step": step,
            "step_origin": origin,
        }
        tensors = {k: torch.full((n_images,), float(v), dtype=dtype) for k, v in numbers.items()}
        poisson = torch.full((n_images,), self.pointwise.kind == "poisson")
        return NoiseParameters(**tensors, poisson=poisson)

    def _apply_one(self, clean: xr.DataArray, seed: int) -> xr.DataArray:
        sign = mode_sign(self.mode)
        signal = torch.as_tensor(_signal(clean.values, self.level, self.contrast * sign))[None]
        noisy = add_noise(signal, self.parameters(), torch_generator(seed))[0].numpy()
        values = noisy * (sign * self.contrast) + self.level
        return clean.copy(data=values.astype(float_dtype(clean.dtype)))


def _signal(values: NDArray, level: float, contrast: float) -> NDArray:
    return (values.astype(np.float64) - level) / contrast


def _relative(value: float | None, level: float, contrast: float) -> float:
    return math.nan if value is None else (value - level) / contrast


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
