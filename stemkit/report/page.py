"""The page of one image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from bokeh.embed import components
from bokeh.resources import Resources

from stemkit._version import __version__
from stemkit.atomic import check_place, write_text
from stemkit.detection import Quality, good_columns
from stemkit.images.pixel_size import is_calibrated, pixel_sizes
from stemkit.images.provenance import recorded_image, steps_before, was_enhanced
from stemkit.noise import NoiseModel
from stemkit.plotting.flags import FLAG_WORDS
from stemkit.report.charts import histograms, power_spectra
from stemkit.report.encoding import figure_uri, packed
from stemkit.report.index import summary_of
from stemkit.report.noise_words import noise_sentences
from stemkit.report.table import column_filter, column_table
from stemkit.report.templating import environment
from stemkit.report.viewer import image_view
from stemkit.statistics import median_spacing
from stemkit.tables import check_columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stemkit.trust import Assessment

__all__ = ["Section", "write_report"]

#: Parts of Bokeh that the page uses.
BOKEH = ["bokeh", "bokeh-widgets", "bokeh-tables"]


@dataclass(frozen=True)
class Section:
    """A further section of a page.

    Parameters
    ----------
    title : str
    sentences : sequence of str
    figures : mapping of str to Figure
        Matplotlib figures by their description, which is read to those who can't see them.
    tables : mapping of str to DataFrame
        Short tables by caption.
    """

    title: str
    sentences: Sequence[str] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)


def write_report(
    path: str | Path,
    image: xr.DataArray,
    columns: pd.DataFrame,
    *,
    title: str | None = None,
    noise_figure: Figure | None = None,
    assessment: Assessment | None = None,
    faults: Sequence[str] = (),
    sections: Sequence[Section] = (),
    command: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one self-contained HTML page about an image and its columns, which opens without a network.

    Parameters
    ----------
    path : path-like
    image : DataArray of shape (n_y, n_x)
        The enhanced image with its recorded pixels, or a recorded one; its noise model is taken from
        ``attrs["noise"]``.
    columns : DataFrame
        The table of :class:`~stemkit.AtomDetector` of this image.
    title : str, optional
        By default the image's source.
    noise_figure : matplotlib Figure, optional
        Such as that of ``NoiseCalibrator.plot``.
    assessment : Assessment, optional
        Result of :func:`stemkit.assess` for this image: a section shows it, and the table of columns has its q-values.
    faults : sequence of str, optional
        Sentences about faults of the scan and of the detector.
    sections : sequence of Section, optional
        Further sections, such as polarisation or counts.
    command : str, optional
        The command that makes the page again.
    overwrite : bool, default=False
        Replace an existing file.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the image has not two dimensions, or the table lacks columns that the detector writes.
    FileExistsError
        If the file exists and ``overwrite`` is False.

    Examples
    --------
    >>> import tempfile, numpy as np, stemkit
    >>> from stemkit import AtomDetector
    >>> y, x = np.mgrid[0:64, 0:64]
    >>> crystal = np.exp(2 * (np.cos(y / 1.6) + np.cos(x / 1.6)))
    >>> image = stemkit.calibrated(crystal + np.random.default_rng(0).normal(0, 2, (64, 64)), pixel_size=0.02)
    >>> columns = AtomDetector().fit_transform(image.assign_attrs(mode="haadf"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = stemkit.write_report(f"{folder}/crystal.html", image, columns, title="A crystal")
    ...     page.name
    'crystal.html'
    """
    path = Path(path)
    _check(image, columns)
    check_place(path, overwrite)
    if assessment is not None and assessment.columns is not None:
        columns = columns.assign(q_value=assessment.columns["q_value"].reindex(columns.index))
    remarks = [*faults, *(() if assessment is None else assessment.warnings)]
    page = _page(image, columns, title, command, remarks) | {
        "trust": None if assessment is None else _trust(assessment),
        "noise_figure": None if noise_figure is None else figure_uri(noise_figure),
        "sections": [_rendered(section) for section in sections],
    }
    text = environment().get_template("page.html.jinja").render(page)
    write_text(path, text)
    return path


def _check(image: xr.DataArray, columns: pd.DataFrame) -> None:
    if not isinstance(image, xr.DataArray) or image.dims != ("y", "x"):
        dims = getattr(image, "dims", type(image).__name__)
        raise ValueError(
            f'image must be a DataArray with the dimensions ("y", "x"), but has {dims}: write a page for each image of '
            "a stack"
        )
    needed = ("y", "x", "y_px", "x_px", "y_err", "x_err", "amplitude", "amplitude_err", "sigma", "snr", "quality")
    check_columns("columns", columns, needed, "the result of AtomDetector")


def _page(
    image: xr.DataArray, columns: pd.DataFrame, title: str | None, command: str | None, faults: Sequence[str]
) -> dict[str, Any]:
    """Values for the template, except the sections that the caller adds."""
    recorded = recorded_image(image)
    enhanced = image if was_enhanced(image) else None
    unit = "nm" if is_calibrated(image) else "px"
    name = title or image.attrs.get("source") or "image"
    selection = column_filter()
    view = image_view(recorded, enhanced, columns, selection.filter)
    shown = {"recorded": recorded} if enhanced is None else {"recorded": recorded, "enhanced": enhanced}
    models = {
        "view": view.layout,
        "table": column_table(columns, view.source, selection, unit, f"{Path(name).stem}_columns.csv"),
    }
    models |= {f"spectrum_{k}": one for k, one in enumerate(power_spectra(shown))}
    if len(columns) > 1:
        models |= {f"histogram_{k}": one for k, one in enumerate(histograms(columns, unit))}
    script, divs = components(models, wrap_script=False)
    bokeh = Resources(mode="inline", components=BOKEH).js_raw
    noise = _noise(image)
    return {
        "title": name,
        "facts": _facts(image, recorded, columns, unit),
        "faults": list(faults),
        "summary": summary_of(name, recorded, columns, unit, faults),
        "scripts": packed("\n".join([*bokeh, script, environment().get_template("page.js").render()])),
        "divs": divs,
        "pictures": {name: picture.uri for name, picture in view.pictures.items()},
        "binning": view.pictures["recorded"].binning,
        "enhanced": enhanced is not None,
        "noise": [] if noise is None else noise_sentences(noise, _pixel_size(image)),
        "noise_table": None if noise is None else json.dumps(noise.to_dict(), indent=1),
        "flags": _flag_counts(columns),
        "n_columns": len(columns),
        "n_good": len(good_columns(columns)) if len(columns) else 0,
        "steps": json.dumps(steps_before(image), indent=1) if steps_before(image) else None,
        "command": command,
        "version": __version__,
    }


def _facts(image: xr.DataArray, recorded: xr.DataArray, columns: pd.DataFrame, unit: str) -> list[tuple[str, str]]:
    """Names and values of the first lines of the page."""
    n_y, n_x = image.shape
    facts = [("size", f"{n_y} × {n_x} px")]
    sizes = pixel_sizes(image)
    if sizes is None:
        facts.append(("pixel size", "unknown: lengths are in px"))
    else:
        facts.append(("field of view", f"{n_y * sizes[0]:.4g} × {n_x * sizes[1]:.4g} nm"))
        facts.append(("pixel size", f"{1000 * sizes[1]:.4g} pm"))
    facts.append(
        (
            "mode",
            {"haadf": "HAADF (bright columns)", "bf": "BF (dark columns)"}.get(image.attrs.get("mode", ""), "unknown"),
        )
    )
    facts.append(("columns", f"{len(columns)}, of which {len(good_columns(columns)) if len(columns) else 0} good"))
    if len(columns) > 1:
        spacing = median_spacing(columns[["y", "x"]].to_numpy())
        facts.append(("nearest columns", f"{spacing:.4g} {unit} apart (median)"))
        error = float(np.sqrt((columns["y_err"] ** 2 + columns["x_err"] ** 2) / 2).median())
        facts.append(
            (
                "position error",
                f"{1000 * error:.3g} pm (median, along an axis)" if unit == "nm" else f"{error:.3g} px (median)",
            )
        )
    if time := recorded.attrs.get("time"):
        facts.append(("recorded", str(time)))
    return facts


def _noise(image: xr.DataArray) -> NoiseModel | None:
    text = image.attrs.get("noise")
    if text is None:
        return None
    values = json.loads(text)
    values.pop("pixel_size", None)
    return NoiseModel.from_dict(values)


def _pixel_size(image: xr.DataArray) -> float | None:
    sizes = pixel_sizes(image)
    return None if sizes is None else sizes[1]


def _flag_counts(columns: pd.DataFrame) -> list[tuple[str, int]]:
    quality = columns["quality"].to_numpy(dtype=np.int64)
    counts = [(words, int((quality & Quality[name] != 0).sum())) for name, words in FLAG_WORDS.items()]
    return [(words, n) for words, n in counts if n]


def _trust(assessment: Assessment) -> dict[str, Any]:
    """Values for the section about an assessment."""
    import matplotlib.pyplot as plt

    from stemkit.plotting import show_assessment

    figure = show_assessment(assessment)
    figure.suptitle("")  # the section begins with this sentence
    try:
        uri = figure_uri(figure)
    finally:
        plt.close(figure)
    table = assessment.table.reset_index().rename(columns={"low": "from", "high": "to"})
    shown = table.map(lambda value: "" if value is None or value is np.nan or value != value else _short(value))
    return {"text": str(assessment), "figure": uri, "head": list(shown), "rows": shown.to_numpy().tolist()}


def _rendered(section: Section) -> dict[str, Any]:
    return {
        "title": section.title,
        "sentences": list(section.sentences),
        "figures": [(words, figure_uri(figure)) for words, figure in section.figures.items()],
        "tables": [
            (caption, list(map(str, table.columns)), table.map(_short).to_numpy().tolist())
            for caption, table in section.tables.items()
        ],
    }


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
