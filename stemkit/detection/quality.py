"""Quality flags of measured columns, and the selection of columns by them."""

from __future__ import annotations

from enum import IntFlag

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from scipy.stats import median_abs_deviation

from stemkit.columns import ColumnFits
from stemkit.detection.normalized_image import NormalizedImage

__all__ = ["FAINT_SIGNIFICANCE", "ODD_RESIDUAL", "Quality", "good_columns", "quality_flags"]

#: Distance from the border below which a column is flagged, sigmas (chosen).
EDGE_DISTANCE = 3.0
#: Distance below which there is no minimum between two columns, sigmas (chosen: 2 for equal ones, more for others).
BLENDED_DISTANCE = 2.6
#: Residual, in standard deviations of the noise, above which a column is not a single Gaussian (chosen) ...
ODD_RESIDUAL = 3.0
#: ... if it also exceeds the median of the columns by this many of their standard deviations (chosen).
ODD_SIGNIFICANCE = 5.0
#: Position errors up to which a blended column is resolved, as a fraction of the pair's distance (chosen).
RESOLVED_ERROR = 0.1
#: Amplitude below which a column is faint, standard errors (chosen).
FAINT_SIGNIFICANCE = 5.0
#: Distance of faulty pixels from the centre below which a column is flagged, sigmas (chosen: these pixels carry most of
#: its weight).
FAULTY_DISTANCE = 1.5


class Quality(IntFlag):
    """Flags of a column; without any it is good.

    The table's ``quality`` is their sum: ``table["quality"] & Quality.EDGE`` is not 0 where a flag is set, and
    ``Quality(24)`` is ``Quality.WIDTH_FIXED | Quality.BLENDED``.

    ``EDGE`` (1): within three sigmas of the border, where part of the column is missing and columns outside are not
    known. ``FAILED`` (2): the fit did not converge; the numbers are those of the start and have no errors.
    ``ODD_SHAPE`` (4): the residual is larger than the noise explains and than that of the other columns.
    ``WIDTH_FIXED`` (8): the column does not determine its width, which is fixed at the learnt one. ``BLENDED`` (16): a
    neighbour is so close that there is no minimum between the two. ``FAINT`` (32): the amplitude is less than five
    standard errors. ``SATURATED`` (64): pixels at the limit of the detector's range. ``FAULTY_PIXELS`` (128): faulty
    pixels, which have no weight, within 1.5 sigmas of the centre. ``GUIDED`` (256): the recorded pixels alone do not
    determine the position, which was fitted near where a network shows the column.

    See Also
    --------
    good_columns : Columns whose numbers can be used with their errors.

    Examples
    --------
    >>> from stemkit.detection import Quality
    >>> Quality.describe(24)
    'WIDTH_FIXED | BLENDED'
    >>> Quality.decode([0, 24])[["WIDTH_FIXED", "FAINT"]].to_numpy().tolist()
    [[False, False], [True, False]]
    """

    EDGE = 1
    FAILED = 2
    ODD_SHAPE = 4
    WIDTH_FIXED = 8
    BLENDED = 16
    FAINT = 32
    SATURATED = 64
    FAULTY_PIXELS = 128
    GUIDED = 256

    # pandas treats iterables as lists: ``table["quality"] & Quality.EDGE`` needs a scalar
    __iter__ = None  # type: ignore[assignment]

    @classmethod
    def describe(cls, quality: int) -> str:
        """The flags of one column in words, such as ``"EDGE | FAINT"``; empty for a good one."""
        return " | ".join(flag.name or "" for flag in cls if int(quality) & flag)

    @classmethod
    def decode(cls, quality: ArrayLike) -> pd.DataFrame:
        """A table of booleans with a column for each flag, for the ``quality`` of several columns, ``(n,)``."""
        index = quality.index if isinstance(quality, pd.Series) else None
        values = np.asarray(quality, dtype=np.int64)
        return pd.DataFrame({str(flag.name): values & flag != 0 for flag in cls}, index=index)


#: Flags of columns whose numbers are wrong, or are not those of the recorded pixels alone.
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
        A table of :class:`~stemkit.AtomDetector`.

    Returns
    -------
    DataFrame
        The rows without ``EDGE``, ``FAILED``, ``ODD_SHAPE``, ``SATURATED``, ``FAULTY_PIXELS`` and ``GUIDED`` columns,
        in their order, with their index. ``BLENDED`` columns are kept if the position errors of the column and of its
        nearest neighbour are below a tenth of their distance and the fit of the neighbour did not fail. ``WIDTH_FIXED``
        and ``FAINT`` columns are kept: their errors are large, but correct.

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
        raise ValueError(f"table must be a table of AtomDetector, but lacks {', '.join(missing)}: pass the whole table")
    quality = table["quality"].to_numpy()
    good = quality & UNUSABLE == 0
    blended = np.flatnonzero(good & (quality & Quality.BLENDED > 0))
    if len(blended) == 0:
        return table[good]
    error = np.hypot(table["y_px_err"].to_numpy(), table["x_px_err"].to_numpy())
    image = table["image"].to_numpy() if "image" in table else np.zeros(len(table))
    for index in np.unique(image):
        rows = np.flatnonzero(image == index)
        if len(rows) < 2:
            continue
        positions = table[["y_px", "x_px"]].to_numpy()[rows]
        distance, nearest = cKDTree(positions).query(positions, k=2)
        larger = np.fmax(error[rows], error[rows[nearest[:, 1]]])
        with np.errstate(invalid="ignore"):
            resolved = larger < RESOLVED_ERROR * distance[:, 1]
        failed = quality[rows[nearest[:, 1]]] & Quality.FAILED > 0
        good[rows] &= (quality[rows] & Quality.BLENDED == 0) | (resolved & ~failed)
    return table[good]


def quality_flags(fits: ColumnFits, width_fixed: NDArray, guided: NDArray, image: NormalizedImage) -> NDArray[np.int64]:
    """Flags ``(n,)`` of fits to a normalized image; for the parameters see :func:`stemkit.detection.table.table_of`."""
    n_y, n_x = image.recorded.shape
    margin = EDGE_DISTANCE * fits.sigma
    edge = (np.minimum(fits.y, fits.x) < margin) | (fits.y > n_y - 1 - margin) | (fits.x > n_x - 1 - margin)
    with np.errstate(invalid="ignore"):
        faint = fits.amplitude < FAINT_SIGNIFICANCE * fits.amplitude_err
        odd = fits.residual > max(ODD_RESIDUAL, _usual_residual(fits))
    return (
        edge * Quality.EDGE
        + fits.failed * Quality.FAILED
        + odd * Quality.ODD_SHAPE
        + width_fixed * Quality.WIDTH_FIXED
        + _blended(fits) * Quality.BLENDED
        + faint * Quality.FAINT
        + _saturated(fits, image) * Quality.SATURATED
        + _on_faulty_pixels(fits, image) * Quality.FAULTY_PIXELS
        + guided * Quality.GUIDED
    )


def _usual_residual(fits: ColumnFits) -> float:
    """Upper limit of the residual of usual columns of this image."""
    residual = fits.residual[~fits.failed & np.isfinite(fits.residual)]
    if len(residual) == 0:
        return 0.0
    median = float(np.median(residual))
    return median + ODD_SIGNIFICANCE * float(median_abs_deviation(residual, scale="normal"))


def _blended(fits: ColumnFits) -> NDArray[np.bool_]:
    """Columns so close to a neighbour that there is no minimum between the two."""
    blended = np.zeros(len(fits), dtype=bool)
    if len(fits) < 2:
        return blended
    pairs = cKDTree(fits.positions).query_pairs(BLENDED_DISTANCE * float(fits.sigma.max()), output_type="ndarray")
    distance = np.hypot(*(fits.positions[pairs[:, 0]] - fits.positions[pairs[:, 1]]).T)
    blended[pairs[distance < BLENDED_DISTANCE * fits.sigma[pairs].mean(axis=1)]] = True
    return blended


def _saturated(fits: ColumnFits, image: NormalizedImage) -> NDArray[np.bool_]:
    """Columns with central pixels at the limit of the detector's range."""
    limit = image.noise.digitization.high if image.sign > 0 else image.noise.digitization.low
    if limit is None:
        return np.zeros(len(fits), dtype=bool)
    at_limit = image.recorded >= (limit - image.noise.level) * image.sign / image.noise.contrast
    n_y, n_x = at_limit.shape
    offset = np.arange(-1, 2)
    rows = (fits.y.round().astype(int)[:, None, None] + offset[:, None]).clip(0, n_y - 1)
    cols = (fits.x.round().astype(int)[:, None, None] + offset).clip(0, n_x - 1)
    return at_limit[rows, cols].any(axis=(1, 2))


def _on_faulty_pixels(fits: ColumnFits, image: NormalizedImage) -> NDArray[np.bool_]:
    """Columns with faulty pixels near their centre."""
    if image.faulty is None or len(fits) == 0:
        return np.zeros(len(fits), dtype=bool)
    tree = cKDTree(np.argwhere(image.faulty))
    distance, _ = tree.query(fits.positions)
    return distance < np.maximum(FAULTY_DISTANCE * fits.sigma, 1.0)
