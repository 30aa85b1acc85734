"""The table of columns: what AtomDetector gives."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import median_abs_deviation

from stemkit.columns import ColumnFits
from stemkit.detection.view import View, unit_of
from stemkit.images import pixel_sizes
from stemkit.noise.model import ScanNoise

__all__ = ["COLUMNS", "ELLIPTICAL_COLUMNS", "Quality", "good_columns", "table_of"]

COLUMNS = (
    "image", "y", "x", "y_px", "x_px", "amplitude", "sigma", "background", "intensity",
    "y_err", "x_err", "y_px_err", "x_px_err", "amplitude_err", "sigma_err", "background_err", "intensity_err",
    "y_jitter", "x_jitter", "snr", "residual", "quality",
)  # fmt: skip
#: What the shape of elliptical columns adds.
ELLIPTICAL_COLUMNS = ("sigma_major", "sigma_minor", "angle")

#: A column within this many sigmas of the border is flagged.
EDGE_SIGMAS = 3.0
#: Columns nearer to each other than this many sigmas have no dip between them.
BLENDED_SIGMAS = 2.6
#: A residual of this many times the noise says that the column is no single Gaussian (chosen), if it is also larger
#: than the median of the columns by this many of their standard deviations.
ODD_RESIDUAL, UNLIKE_OTHERS = 3.0, 5.0
#: Position errors of a blended column that is resolved are below this part of the pair's distance (chosen).
RESOLVED_ERROR = 0.1
#: A column whose amplitude is less than this many of its errors is faint.
FAINT_SIGMAS = 5.0
#: A column with faulty pixels within this many sigmas of its center is flagged: these carry most of its weight.
FAULTY_SIGMAS = 1.5


class Quality(IntEnum):
    """Flags of a column; 0 is good. They add up: where one is set, ``table["quality"] & Quality.EDGE`` is not 0.

    ``EDGE`` (1): within three sigmas of the border, where a part of the column is missing and columns beyond are not
    known. ``FAILED`` (2): the fit did not converge, the numbers are those of the start and have no errors.
    ``ODD_SHAPE`` (4): the residual is larger than noise explains and than that of the other columns. ``WIDTH_HELD``
    (8): the column does not determine its width, which is fixed at the learnt one. ``BLENDED`` (16): a neighbour is so
    near that there is no dip between the two. ``FAINT`` (32): the amplitude is less than five of its errors.
    ``SATURATED`` (64): pixels at the detector's limit. ``FAULTY_PIXELS`` (128): pixels within 1.5 sigmas of the center
    are no measurement and have no weight. ``GUIDED`` (256): the recorded pixels do not determine the position by
    themselves; it is held near where a network shows the column.

    See Also
    --------
    good_columns : the columns whose numbers can be used with their errors.
    """

    EDGE = 1
    FAILED = 2
    ODD_SHAPE = 4
    WIDTH_HELD = 8
    BLENDED = 16
    FAINT = 32
    SATURATED = 64
    FAULTY_PIXELS = 128
    GUIDED = 256

    @classmethod
    def names(cls, quality: int) -> str:
        """The flags of one column in words, such as ``"EDGE | FAINT"``; empty for a good one."""
        return " | ".join(flag.name for flag in cls if int(quality) & flag)


#: Flags of columns whose numbers are wrong, or not those of the recorded pixels alone.
UNUSABLE = (
    Quality.EDGE
    | Quality.FAILED
    | Quality.ODD_SHAPE
    | Quality.SATURATED
    | Quality.FAULTY_PIXELS
    | Quality.GUIDED
)  # fmt: skip


def good_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The columns whose position and amplitude can be used with their errors.

    Parameters
    ----------
    table : DataFrame
        What :class:`~stemkit.AtomDetector` gave.

    Returns
    -------
    DataFrame
        The rows without ``EDGE``, ``FAILED``, ``ODD_SHAPE``, ``SATURATED``, ``FAULTY_PIXELS`` and ``GUIDED`` columns,
        in their order, with their index. Columns that are ``BLENDED`` stay where both they and their neighbour are
        fitted well: where position errors are below a tenth of their distance. ``WIDTH_HELD`` and ``FAINT`` columns
        stay: their errors are large, and right.

    Raises
    ------
    ValueError
        If the table lacks ``quality`` or the positions in px.

    Examples
    --------
    >>> from stemkit import AtomDetector, STEMSynthesizer
    >>> from stemkit.detection import good_columns
    >>> noisy = STEMSynthesizer(arrangements=("lattice",), random_state=0).sample(1)["noisy"]
    >>> columns = AtomDetector().fit_transform(noisy)
    >>> 0 < len(good_columns(columns)) < len(columns)
    True
    """
    needed = ("quality", "y_px", "x_px", "y_px_err", "x_px_err")
    missing = [name for name in needed if name not in table]
    if missing:
        raise ValueError(f"table must be one of AtomDetector's, but lacks {', '.join(missing)}")
    quality = table["quality"].to_numpy()
    good = quality & UNUSABLE == 0
    blended = np.flatnonzero(good & (quality & Quality.BLENDED > 0))
    if len(blended) == 0:
        return table[good]
    error = np.hypot(table["y_px_err"].to_numpy(), table["x_px_err"].to_numpy())
    image = table["image"].to_numpy() if "image" in table else np.zeros(len(table))
    for index in np.unique(image):
        some = np.flatnonzero(image == index)
        if len(some) < 2:
            continue
        places = table[["y_px", "x_px"]].to_numpy()[some]
        distance, nearest = cKDTree(places).query(places, k=2)
        worst = np.fmax(error[some], error[some[nearest[:, 1]]])
        with np.errstate(invalid="ignore"):
            resolved = worst < RESOLVED_ERROR * distance[:, 1]
        failed = quality[some[nearest[:, 1]]] & Quality.FAILED > 0
        good[some] &= (quality[some] & Quality.BLENDED == 0) | (resolved & ~failed)
    return table[good]


def table_of(
    fits: ColumnFits,
    held: NDArray,
    view: View,
    index: int,
    *,
    guided: NDArray | None = None,
    elliptical: bool = False,
) -> pd.DataFrame:
    """One row per fit, in the image's units.

    Parameters
    ----------
    fits : ColumnFits
        In units of the view.
    held : ndarray of bool, shape (n,)
        Which of them have their width held.
    view : View
    index : int
        Of the image.
    guided : ndarray of bool, shape (n,), optional
        Which of them have their position held near where a network shows it.
    elliptical : bool
        Whether the columns' axes are listed.
    """
    guided = np.zeros(len(fits), dtype=bool) if guided is None else guided
    image, contrast, level = view.image, view.noise.contrast, view.noise.level
    sizes = pixel_sizes(image) or (1.0, 1.0)
    size, calibrated = unit_of(image)
    origin = [float(image.coords[d][0]) if d in image.coords else 0.0 for d in ("y", "x")]
    scan = view.noise.scan
    data = {
        "image": np.full(len(fits), index, dtype=np.int64),
        "y": origin[0] + fits.y * sizes[0],
        "x": origin[1] + fits.x * sizes[1],
        "y_px": fits.y,
        "x_px": fits.x,
        "amplitude": fits.amplitude * contrast,
        "sigma": fits.sigma * size,
        "background": level + fits.background * view.sign * contrast,
        "intensity": fits.intensity * contrast * size**2,
        "y_err": fits.y_err * sizes[0],
        "x_err": fits.x_err * sizes[1],
        "y_px_err": fits.y_err,
        "x_px_err": fits.x_err,
        "amplitude_err": fits.amplitude_err * contrast,
        "sigma_err": fits.sigma_err * size,
        "background_err": fits.background_err * contrast,
        "intensity_err": fits.intensity_err * contrast * size**2,
        "y_jitter": _jitter_error(scan, fits.sigma, along_y=True) * sizes[0],
        "x_jitter": _jitter_error(scan, fits.sigma, along_y=False) * sizes[1],
        "snr": fits.amplitude / np.sqrt(view.variance(fits.background + fits.amplitude)),
        "residual": fits.residual,
        "quality": _quality(fits, held, guided, view),
    }
    names: tuple[str, ...] = COLUMNS
    if elliptical:
        data |= _axes(fits, size)
        names = (*COLUMNS[:-3], *(f"{name}{end}" for end in ("", "_err") for name in ELLIPTICAL_COLUMNS), *COLUMNS[-3:])
    table = pd.DataFrame({name: data[name] for name in names})
    table.attrs["unit"] = "nm" if calibrated else "px"
    # columns of real images are not quite Gaussian: said once, of all of them
    table.attrs["residual"] = float(np.median(fits.residual)) if len(fits) else float("nan")
    return table


# --- steps -------------------------------------------------------------------------------------------------------


def _jitter_error(scan: ScanNoise, sigma: NDArray, *, along_y: bool) -> NDArray:
    """What displacements of the beam add to a column's position: standard deviations, px.

    A pixel tells of x in proportion to ``x^2 exp(-r^2 / sigma^2)``, of y in proportion to ``y^2 exp(-r^2 / sigma^2)``.
    The mean of displacements with these weights has the variance of the sum of

    - jitter, independent between rows and with the autocovariance ``exp(-d^2 / (4 length^2))`` along them:
      ``jitter^2 f / ((2 pi)^1/2 sigma)`` with, for ``q = (sigma / (2 length))^2``, ``f = (1 + 2 q + 3 q^2) /
      (1 + 2 q)^(5/2)`` in x and ``3/4 (1 + 2 q)^(-1/2)`` in y;
    - drift with the autocovariance ``exp(-k^2 / (4 rows^2))`` between rows: ``drift^2 (1 + r)^(-1/2)`` for
      ``r = sigma^2 / (2 rows^2)``, in y times ``1 - p + 3/4 p^2`` with ``p = r / (1 + r)``;
    - hum: ``hum^2 exp(-t^2 / 2) / 2`` for ``t = 2 pi sigma / period``, in y times ``(1 - t^2 / 2)^2``.
    """
    jitter, drift, hum = (scan.jitter_y, scan.drift_y, scan.hum_y) if along_y else (scan.jitter, scan.drift, scan.hum)
    sigma = np.maximum(sigma, 0.5)
    q = (sigma / (2 * max(scan.jitter_length, 0.3))) ** 2
    factor = 0.75 / np.sqrt(1 + 2 * q) if along_y else (1 + 2 * q + 3 * q**2) / (1 + 2 * q) ** 2.5
    r = (sigma / scan.drift_rows) ** 2 / 2
    p = r / (1 + r)
    kept = (1 - p + 0.75 * p**2 if along_y else 1.0) / np.sqrt(1 + r)
    t = 2 * np.pi * sigma / scan.hum_period
    passed = (1 - t**2 / 2) ** 2 if along_y else 1.0
    variance = jitter**2 * factor / (np.sqrt(2 * np.pi) * sigma) + drift**2 * kept
    return np.sqrt(variance + hum**2 / 2 * passed * np.exp(-(t**2) / 2))


def _axes(fits: ColumnFits, size: float) -> dict[str, NDArray]:
    """Sigmas along the longest and the shortest direction, and the longest one's angle from x towards y, degrees."""
    e = np.hypot(fits.e1, fits.e2)
    safe = np.maximum(e, 1e-12)
    e_err = np.hypot(fits.e1 * fits.e1_err, fits.e2 * fits.e2_err) / safe
    turned = np.hypot(fits.e2 * fits.e1_err, fits.e1 * fits.e2_err) / safe**2 / 2
    major, minor = fits.sigma * np.sqrt(1 + e), fits.sigma * np.sqrt(1 - e)

    def error(axis: NDArray) -> NDArray:
        return np.hypot(axis * fits.sigma_err / fits.sigma, fits.sigma**2 * e_err / (2 * axis))

    return {
        "sigma_major": major * size,
        "sigma_minor": minor * size,
        "angle": np.degrees(0.5 * np.arctan2(fits.e2, -fits.e1)),
        "sigma_major_err": error(major) * size,
        "sigma_minor_err": error(minor) * size,
        "angle_err": np.degrees(np.minimum(turned, np.pi / np.sqrt(12))),
    }


def _quality(fits: ColumnFits, held: NDArray, guided: NDArray, view: View) -> NDArray[np.int64]:
    n_y, n_x = view.recorded.shape
    margin = EDGE_SIGMAS * fits.sigma
    edge = (np.minimum(fits.y, fits.x) < margin) | (fits.y > n_y - 1 - margin) | (fits.x > n_x - 1 - margin)
    with np.errstate(invalid="ignore"):
        faint = fits.amplitude < FAINT_SIGMAS * fits.amplitude_err
        odd = fits.residual > max(ODD_RESIDUAL, _usual_residual(fits))
    return (
        edge * Quality.EDGE
        + fits.failed * Quality.FAILED
        + odd * Quality.ODD_SHAPE
        + held * Quality.WIDTH_HELD
        + _blended(fits) * Quality.BLENDED
        + faint * Quality.FAINT
        + _saturated(fits, view) * Quality.SATURATED
        + _on_faulty_pixels(fits, view) * Quality.FAULTY_PIXELS
        + guided * Quality.GUIDED
    )


def _usual_residual(fits: ColumnFits) -> float:
    """The largest residual that columns of this image usually have."""
    residual = fits.residual[~fits.failed & np.isfinite(fits.residual)]
    if len(residual) == 0:
        return 0.0
    middle = float(np.median(residual))
    return middle + UNLIKE_OTHERS * float(median_abs_deviation(residual, scale="normal"))


def _blended(fits: ColumnFits) -> NDArray[np.bool_]:
    """Both columns of each pair without a dip between them."""
    blended = np.zeros(len(fits), dtype=bool)
    if len(fits) < 2:
        return blended
    pairs = cKDTree(fits.positions).query_pairs(BLENDED_SIGMAS * float(fits.sigma.max()), output_type="ndarray")
    distance = np.hypot(*(fits.positions[pairs[:, 0]] - fits.positions[pairs[:, 1]]).T)
    blended[pairs[distance < BLENDED_SIGMAS * fits.sigma[pairs].mean(axis=1)]] = True
    return blended


def _saturated(fits: ColumnFits, view: View) -> NDArray[np.bool_]:
    """Columns on whose central pixels the detector was at its limit."""
    limit = view.noise.digitization.high if view.sign > 0 else view.noise.digitization.low
    if limit is None:
        return np.zeros(len(fits), dtype=bool)
    at_limit = view.recorded >= (limit - view.noise.level) * view.sign / view.noise.contrast
    n_y, n_x = at_limit.shape
    near = np.arange(-1, 2)
    rows = (fits.y.round().astype(int)[:, None, None] + near[:, None]).clip(0, n_y - 1)
    cols = (fits.x.round().astype(int)[:, None, None] + near).clip(0, n_x - 1)
    return at_limit[rows, cols].any(axis=(1, 2))


def _on_faulty_pixels(fits: ColumnFits, view: View) -> NDArray[np.bool_]:
    """Columns with pixels near their center that are no measurement."""
    if view.faulty is None or len(fits) == 0:
        return np.zeros(len(fits), dtype=bool)
    tree = cKDTree(np.argwhere(view.faulty))
    distance, _ = tree.query(np.column_stack([fits.y, fits.x]))
    return distance < np.maximum(FAULTY_SIGMAS * fits.sigma, 1.0)
