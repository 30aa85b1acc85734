"""The index of a folder of pages: each page carries its own line of the index."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from stemkit._version import __version__
from stemkit.atomic import write_text
from stemkit.detection import good_columns
from stemkit.report.encoding import thumbnail_uri
from stemkit.report.templating import environment
from stemkit.statistics import median_spacing

__all__ = ["INDEX", "summary_of", "write_index"]

#: Name of the index.
INDEX = "index.html"
#: The element of a page that contains its line.
SUMMARY = re.compile(r'<meta name="stemkit-summary" content="([^"]*)">')
#: Number of characters from the start of a page in which this element is searched (chosen).
HEAD_LENGTH = 200_000


def write_index(folder: str | Path, *, title: str = "Reports") -> Path:
    """Write ``index.html``, which lists all pages of a folder by name; an existing one is replaced.

    Parameters
    ----------
    folder : path-like
        A folder with pages of :func:`stemkit.write_report`.
    title : str

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If there is no page in the folder.
    """
    folder = Path(folder)
    entries = [entry for path in sorted(folder.glob("*.html")) if (entry := _entry(path)) is not None]
    if not entries:
        raise ValueError(f"folder must contain pages of write_report, but {folder} contains none")
    text = environment().get_template("index.html.jinja").render(title=title, entries=entries, version=__version__)
    write_text(folder / INDEX, text)
    return folder / INDEX


def summary_of(title: str, recorded: xr.DataArray, columns: pd.DataFrame, unit: str, remarks: Sequence[str]) -> str:
    """The line of a page in the index, as JSON."""
    spacing = ""
    if len(columns) > 1:
        spacing = f"{median_spacing(columns[['y', 'x']].to_numpy()):.4g} {unit}"
    return json.dumps(
        {
            "title": title,
            "thumbnail": thumbnail_uri(recorded.values),
            "n_columns": len(columns),
            "n_good": len(good_columns(columns)) if len(columns) else 0,
            "spacing": spacing,
            "remarks": list(remarks),
        }
    )


def _entry(path: Path) -> dict[str, Any] | None:
    """The line of a page; None if the file is another page."""
    with path.open(encoding="utf-8", errors="replace") as file:
        match = SUMMARY.search(file.read(HEAD_LENGTH))
    if match is None:
        return None
    try:
        found = json.loads(html.unescape(match[1]))
    except json.JSONDecodeError:
        return None
    return {**found, "name": path.name} if isinstance(found, dict) else None
