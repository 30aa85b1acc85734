"""Whether to believe an enhanced image: :func:`assess`."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.denoising.network import NetworkDenoiser
from stemkit.denoising.sampling import chosen_grid
from stemkit.images import single_image
from stemkit.images.mode import mode_sign, resolve_mode
from stemkit.images.pixel_size import mean_pixel_size
from stemkit.images.provenance import recorded_image, steps_before
from stemkit.noise import NoiseModel
from stemkit.noise.resolve import resolve_noise
from stemkit.pixels import faulty_pixels, filled
from stemkit.tables import counted
from stemkit.trust.columns import FALSE_DISCOVERY_RATE, judge_columns, missed_columns
from stemkit.trust.expected_noise import ExpectedNoise
from stemkit.trust.residual import ResidualTests, check_residual
from stemkit.trust.spread import error_sources, factors_of, network_results, uncertainty_map
from stemkit.trust.training_range import range_table, shipped_info

__all__ = ["Assessment", "assess"]

#: Least number of pixels along an axis (chosen: fewer contain too few independent numbers for the tests).
MIN_SIZE = 32
#: Columns of the table of an assessment.
FIELDS = ["value", "unit", "low", "high", "p", "verdict"]


@dataclass(frozen=True, eq=False)
class Assessment:
    """Evidence for and against an enhanced image.

    Attributes
    ----------
    range : DataFrame
        Quantities of the image and their ranges in the training of the network: index ``spacing``, ``width``,
        ``noise``, ``dose``, ``displacement``, ``correlation``; columns ``value, unit, low, high, status``.
    residual : ResidualTests
        Tests of the residual: ``residual.table``, ``residual.map`` and ``residual.places``.
    columns : DataFrame or None
        With the index of the given columns: ``y_px, x_px, significance, p_value, q_value, verdict``, and with a
        denoiser ``intensity_uncertainty``, the half-width of the 68 % interval of the mean intensity around the column
        in the enhanced image.
    missed : DataFrame
        Columns in the recorded image that the enhanced one does not show: ``y_px, x_px, z, q_value``.
    uncertainty : DataArray or None
        Uncertainty of each pixel of the enhanced image, see :func:`~stemkit.trust.network_uncertainty`; None without a
        denoiser.
    recorded, enhanced : DataArray of shape (n_y, n_x)
    mode : {"haadf", "bf"}
    """

    range: pd.DataFrame
    residual: ResidualTests
    columns: pd.DataFrame | None
    missed: pd.DataFrame
    uncertainty: xr.DataArray | None
    recorded: xr.DataArray
    enhanced: xr.DataArray
    mode: str

    @property
    def table(self) -> pd.DataFrame:
        """All numbers: index (section, quantity), columns ``value, unit, low, high, p, verdict``."""
        ranges = self.range.rename(columns={"status": "verdict"})
        structure = self.residual.structure.index
        tests = self.residual.table.assign(
            verdict=["structure" if name in structure else "noise" for name in self.residual.table.index]
        )
        parts = {"range": ranges, "residual": tests, "columns": self._column_counts()}
        return pd.concat(
            {key: part.reindex(columns=FIELDS) for key, part in parts.items()}, names=["section", "quantity"]
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons to doubt the enhanced image, as sentences; empty without any."""
        found = [
            f"{name} is outside of the training: {_amount(row)}, trained from {row['low']:.3g} to {row['high']:.3g}"
            for name, row in self.range.iterrows()
            if row["status"] == "outside"
        ]
        if len(self.residual.structure):
            found.append("removed with the noise: " + ", ".join(self._structure()))
        return tuple(found)

    def __str__(self) -> str:
        edge = [f"{name} {_amount(row)}" for name, row in self.range.iterrows() if row["status"] in ("edge", "outside")]
        tests = (
            "only noise was removed"
            if self.residual.structure.empty
            else "removed with the noise: " + ", ".join(self._structure())
        )
        text = [
            f"at the edge or outside of the training: {', '.join(edge)}" if edge else "within the range of the training"
        ]
        text.append(tests)
        if self.columns is not None:
            counts = self.columns["verdict"].value_counts()
            doubtful = [
                f"{counts[name]} {name}" for name in ("may be invented", "filled in", "weakened") if name in counts
            ]
            text.append(
                f"of {counted(len(self.columns), 'column')}: {', '.join(doubtful)}"
                if doubtful
                else "all columns are supported by the recorded image"
            )
        if len(self.missed):
            text.append(f"{counted(len(self.missed), 'recorded column')} missed")
        return "; ".join(text)

    def __repr__(self) -> str:
        return f"Assessment({self})"

    def _repr_html_(self) -> str:
        doubts = "".join(f"<li>{escape(text)}</li>" for text in self.warnings)
        return (
            f"<p>{escape(str(self))}</p><ul>{doubts}</ul>{self.table.to_html(float_format='{:.3g}'.format, na_rep='')}"
        )

    def _structure(self) -> list[str]:
        values, n = (
            self.residual.structure["value"],
            int((self.residual.places["q_value"] <= FALSE_DISCOVERY_RATE).sum()),
        )
        words = {
            "whiteness": "{:.2f} times the power of noise at some frequency",
            "variance": "a local variance of {:.1f} times the median",
            "lattice": "{:.1%} of the lattice",
            "blur": "columns as if {:.1%} too wide (too wide, too faint, or with noise kept)",
            "shift": "a shift of {:.2f} px",
            "columns": f"{n} place{'s' if n != 1 else ''} like columns",
        }
        return [words[str(name)].format(value) for name, value in values.items()]

    def _column_counts(self) -> pd.DataFrame:
        counts = {"missed": len(self.missed)}
        if self.columns is not None:
            found = self.columns["verdict"].value_counts()
            counts |= {
                name: int(found.get(name, 0)) for name in ("supported", "may be invented", "filled in", "weakened")
            }
        return pd.DataFrame({"value": pd.Series(counts, dtype=float), "unit": "columns"})


def assess(
    recorded: xr.DataArray | NDArray,
    enhanced: xr.DataArray | NDArray,
    columns: pd.DataFrame | None = None,
    *,
    denoiser: NetworkDenoiser | None = None,
    mode: str | None = None,
) -> Assessment:
    """Assess whether an enhanced image can be believed.

    Parameters
    ----------
    recorded : DataArray or ndarray of shape (n_y, n_x)
        Recorded image. With a noise model, from :class:`stemkit.NoiseCalibrator`, the residual is compared with it;
        otherwise with the noise that is measured in the residual itself, which is faster and tests the same except for
        the variance of noise that depends on the intensity.
    enhanced : DataArray or ndarray of shape (n_y, n_x)
        Result of a denoiser for it.
    columns : DataFrame, optional
        Columns of :class:`stemkit.AtomDetector`, measured in the recorded pixels, whose significance is tested.
    denoiser : NetworkDenoiser, optional
        The fitted denoiser that made the image. Its uncertainty is then measured, at about eight times the cost of the
        enhancement, and the range of its training is used.
    mode : {"haadf", "bf"} or None, default=None
        None: that of the images, or inferred.

    Returns
    -------
    Assessment

    Raises
    ------
    ValueError
        If one of the images is a stack, is smaller than 32 px or has no contrast, or their shapes differ.

    Notes
    -----
    Five questions are answered: whether the image is similar to those of the training, whether the residual is noise,
    where the network is uncertain, which columns are significant in the recorded pixels, and which are missed. The
    page :doc:`/trust` explains the numbers and states how often they are wrong.

    Examples
    --------
    >>> import stemkit
    >>> from stemkit import SFINDenoiser, STEMSynthesizer
    >>> noisy = STEMSynthesizer(arrangements=("lattice",), shape=(128, 128), random_state=0).sample(1)["noisy"][0]
    >>> found = stemkit.assess(noisy, SFINDenoiser().fit_transform(noisy))
    >>> found.range.loc["spacing", "status"]
    'inside'
    >>> found.residual.table.index.tolist()
    ['whiteness', 'variance', 'lattice', 'blur', 'shift', 'columns']
    """
    first, second = (single_image(image, name=name) for image, name in ((recorded, "recorded"), (enhanced, "enhanced")))
    if first.shape != second.shape:
        raise ValueError(
            f"recorded and enhanced must have one shape, but have {first.shape} and {second.shape}: give the "
            "image that was enhanced"
        )
    if min(first.shape) < MIN_SIZE:
        raise ValueError(f"recorded must have at least {MIN_SIZE} px along each axis, but has the shape {first.shape}")
    first = recorded_image(first)
    mode = resolve_mode(first, mode or second.attrs.get("mode"))
    sign = mode_sign(mode)
    bright = sign * second.values.astype(np.float64)
    given = sign * filled(first.values, faulty_pixels(first.values)).astype(np.float64)
    residual = given - bright
    if not (np.ptp(bright) and np.ptp(residual)):
        raise ValueError(
            "enhanced must have a contrast and differ from recorded, but is constant or equal to it: give "
            "the image that was recorded"
        )
    model = _attached_noise(first, second, mode)
    expected = (
        ExpectedNoise.from_residual(residual, bright) if model is None else ExpectedNoise.from_model(model, bright)
    )
    tests = check_residual(residual, bright, expected)
    info = denoiser.info_ if denoiser is not None else shipped_info(_weights(second))
    grid = chosen_grid(given, "auto" if denoiser is None else denoiser.sampling, None if info is None else info.spacing)
    ranges = range_table(
        bright,
        expected=expected,
        grid=grid,
        width=tests.width,
        displacement=tests.displacement,
        info=info,
        model=model,
    )
    judged = None if columns is None else judge_columns(columns, first, mode, expected, tests.places)
    missed = missed_columns(residual, bright, tests.places, tests.width)
    uncertainty = None
    if denoiser is not None:
        results = network_results(first, denoiser)
        uncertainty = uncertainty_map(first, results, denoiser)
        if judged is not None and columns is not None:
            judged["intensity_uncertainty"] = _at_columns(columns, first, results, denoiser)
    return Assessment(ranges, tests, judged, missed, uncertainty, first, second, mode)


def _attached_noise(recorded: xr.DataArray, enhanced: xr.DataArray, mode: str) -> NoiseModel | None:
    for image in (recorded, enhanced):
        if "noise" in image.attrs:
            return resolve_noise(image, mode)
    return None


def _weights(enhanced: xr.DataArray) -> str:
    """Hash of the weights that made the image, from its provenance; empty without one."""
    made = steps_before(enhanced)
    while isinstance(made, dict):
        if made.get("step") == "enhance":
            return str(made.get("weights", ""))
        made = made.get("previous")
    return ""


def _at_columns(
    columns: pd.DataFrame, recorded: xr.DataArray, results: NDArray, denoiser: NetworkDenoiser
) -> NDArray[np.float64]:
    size = mean_pixel_size(recorded)
    width = float(np.nanmedian(columns["sigma"])) / size
    sources = error_sources(recorded, results, resolve_mode(recorded, denoiser.mode), width)
    half = sources.half_width(factors_of(denoiser.info_.sha256)["integrated"])
    at = columns[["y_px", "x_px"]].to_numpy(dtype=np.float64).T
    return np.asarray(ndimage.map_coordinates(half, at, order=1, mode="nearest"))


def _amount(row: pd.Series) -> str:
    return f"{row['value']:.3g} {row['unit']}".strip()
