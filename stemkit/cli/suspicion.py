"""Summary of measured columns, and notes about what is suspicious and what to try."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.plotting.flags import FLAG_WORDS
from stemkit.tables import counted

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import xarray as xr
    from numpy.typing import NDArray

    from stemkit import AtomDetector

__all__ = ["column_summary", "notes"]

#: Flags of columns that may be none, or several.
SUSPICIOUS = ("FAILED", "ODD_SHAPE", "WIDTH_FIXED", "BLENDED", "FAINT", "GUIDED")
#: Fraction of suspicious columns from which a note is printed (chosen).
MIN_NOTED_FRACTION = 0.05
#: RMS displacement of rows from which straightening is proposed, sigmas of the columns (chosen).
MAX_ROW_DISPLACEMENT = 0.15
#: Distance of neighbours from which a column may be two parts of one, fraction of the median distance (chosen).
MAX_CLOSE_DISTANCE = 0.6


def column_summary(table: pd.DataFrame) -> str:
    """Number of columns, and of those with each quality flag."""
    from stemkit.detection import good_columns

    found = ", ".join(f"{n} {FLAG_WORDS[name]}" for name, n in _counts(table, FLAG_WORDS).items())
    good = f", {len(good_columns(table))} good" if len(table) else ""
    return counted(len(table), "column") + good + (f" ({found})" if found else "")


def notes(table: pd.DataFrame, detector: AtomDetector, shown: xr.DataArray, path: Path) -> list[str]:
    """Notes about an image without columns, about suspicious columns, and about residuals well above the noise."""
    if len(table) == 0:
        return [_without_columns(detector, shown)]
    found = _suspicious(table, detector, shown, path)
    if residual := _large_residual(table):
        found.append(residual)
    return found


def _without_columns(detector: AtomDetector, shown: xr.DataArray) -> str:
    unit = "nm" if detector.calibrated_ else "px"
    spacing = f"{detector.spacing_:.3g} {unit}" if detector.spacing_ > 0 else "unknown"
    return (
        f"note: no columns were found. The search was for columns of sigma {detector.width_:.3g} {unit} (spacing: "
        f"{spacing}) in an image of {shown.shape[-2]} x {shown.shape[-1]} px: check the pixel size, give "
        "--pixel-size, or give the sigma of the columns with --width"
    )


def _suspicious(table: pd.DataFrame, detector: AtomDetector, shown: xr.DataArray, path: Path) -> list[str]:
    """Counts of columns that may be none or several, and what to try."""
    from stemkit.detection import Quality, good_columns

    inner = table[table["quality"] & Quality.EDGE == 0]
    # columns that are blended but resolved, as the two of a dumbbell, are good
    resolved = inner.index.isin(good_columns(inner).index) & (inner["quality"] == Quality.BLENDED).to_numpy()
    doubtful = inner[~resolved]
    counts = _counts(doubtful, SUSPICIOUS)
    marked = (doubtful["quality"] & sum(Quality[name] for name in SUSPICIOUS)) > 0
    close = doubtful[_is_close(inner)[~resolved]]
    number = len(doubtful[marked].index.union(close.index))
    if number <= MIN_NOTED_FRACTION * len(inner):
        return []
    reasons = [f"{n} {FLAG_WORDS[name]}" for name, n in counts.items()]
    if len(close):
        reasons.append(f"{len(close)} nearer to a neighbour than {MAX_CLOSE_DISTANCE:g} of the usual distance")
    advice = "; ".join(_advice(counts, len(close), inner, detector, shown, path))
    return [
        f"note: {number} of {len(inner)} columns inside the image ({number / len(inner):.0%}) are suspicious: "
        f"{', '.join(reasons)}. Try {advice}"
    ]


def _advice(
    counts: dict[str, int], close: int, table: pd.DataFrame, detector: AtomDetector, shown: xr.DataArray, path: Path
) -> list[str]:
    """Suggestions for the user, the most promising one first."""
    from stemkit.images.provenance import was_averaged

    advice = []
    displacement = _row_displacement(shown)
    width = float(table["sigma"].median() * _px_per_unit(table))
    if displacement > MAX_ROW_DISPLACEMENT * width and not was_averaged(shown):
        advice.append(
            f"stemkit straighten {path} and measure its result, since rows are displaced by {displacement:.2g} px"
        )
    few = MIN_NOTED_FRACTION * len(table)
    if max(close, sum(counts.get(name, 0) for name in ("FAINT", "GUIDED", "WIDTH_FIXED"))) > few:
        advice.append(f"--significance {2 * detector.significance:g}, which leaves out the faintest")
    if close > few or counts.get("BLENDED", 0) > few:
        advice.append("--spacing and --width, if the estimates are wrong: " + _estimates(detector))
    return advice or ["--elliptical, or look at them with --figure"]


def _large_residual(table: pd.DataFrame) -> str:
    from stemkit.detection.quality import ODD_RESIDUAL

    if not table.attrs["residual"] > ODD_RESIDUAL:
        return ""
    return (
        f"note: the residuals are {table.attrs['residual']:.1f} times the noise: the columns of this image are not "
        "exactly Gaussian, and the errors were increased accordingly"
    )


def _counts(table: pd.DataFrame, names: Any) -> dict[str, int]:
    """Number of columns with each of the flags, those without columns omitted."""
    from stemkit.detection import Quality

    quality = table["quality"].to_numpy()
    counts = {name: int((quality & Quality[name] > 0).sum()) for name in names}
    return {name: n for name, n in counts.items() if n}


def _is_close(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Whether a column is unusually near to another one of its image."""
    import numpy as np

    from stemkit.statistics import nearest_distances

    close = np.zeros(len(table), dtype=bool)
    for index in table["image"].unique():
        rows = (table["image"] == index).to_numpy()
        if rows.sum() < 3:
            continue
        distance = nearest_distances(table.loc[rows, ["y_px", "x_px"]].to_numpy())
        close[rows] = distance < MAX_CLOSE_DISTANCE * np.median(distance)
    return close


def _row_displacement(shown: xr.DataArray) -> float:
    """Largest RMS displacement of the rows of the images along x, px, from their noise models."""
    from stemkit.images import split
    from stemkit.noise.resolve import resolve_noise

    models = [resolve_noise(image, None) for image in split(shown) if "noise" in image.attrs]
    return max((model.scan.displacement for model in models), default=0.0)


def _px_per_unit(table: pd.DataFrame) -> float:
    """Pixels per unit of length of the table."""
    return float((table["x_px_err"] / table["x_err"]).median())


def _estimates(detector: AtomDetector) -> str:
    unit = "nm" if detector.calibrated_ else "px"
    return f"they are {detector.spacing_:.3g} and {detector.width_:.3g} {unit}"
