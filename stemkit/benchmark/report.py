"""Files of the benchmark: all scores as CSV, the tables in Markdown, and a figure."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import xarray as xr

from stemkit._version import __version__
from stemkit.atomic import write_text
from stemkit.benchmark.methods import MethodSpec
from stemkit.benchmark.scenes import scenes
from stemkit.benchmark.tables import TABLES, Extent, Table
from stemkit.compute import describe_device, resolve_device
from stemkit.denoising import NetworkInfo, load_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Report", "example_figure", "provenance"]

#: Set and index of the images in the figure (chosen).
EXAMPLES = (("haadf", 0), ("haadf", 7), ("bf", 3), ("simulated", 15))
#: Edge of the crop of each image in the figure, px (chosen).
SHOWN = 128
#: Width of a panel, inches (chosen).
PANEL_WIDTH = 1.6
#: Height of a panel, inches (chosen).
PANEL_HEIGHT = 1.7
#: Height of the titles, inches (chosen).
TITLE_HEIGHT = 0.3


class Report:
    """The tables in a folder. A table is computed again only if methods, code, weights, versions or extent changed.

    Parameters
    ----------
    folder : Path
        Folder for ``NAME.csv`` (all scores), ``NAME_table.csv`` and ``NAME.md`` (the printed table) of each table, and
        ``tables.md`` with all tables.
    extent : Extent
        Number of images and conditions.
    """

    def __init__(self, folder: Path, extent: Extent):
        self.folder, self.extent = folder, extent
        folder.mkdir(parents=True, exist_ok=True)

    def table(self, name: str, rows: Sequence[MethodSpec]) -> str:
        """One of ``TABLES`` in Markdown, read from the folder if it is up to date, otherwise computed and written."""
        table, path = TABLES[name], self.folder / f"{name}.md"
        included = [row for row in rows if table.includes(row)]
        origin = provenance(included, self.extent)
        previous = path.read_text(encoding="utf-8") if path.exists() else ""
        if origin in previous:
            return previous
        return self._computed(name, table, included, origin)

    def _computed(self, name: str, table: Table, rows: Sequence[MethodSpec], origin: str) -> str:
        available = [row for row in rows if not row.unavailable]
        scores = table.compute(available, self.extent) if available else pd.DataFrame()
        summary = table.summarize(scores).rename_axis("method") if available else pd.DataFrame()
        markdown = [str(summary.to_markdown())] if available else []
        parts = [f"## {table.title}", table.description, *markdown, *_unavailable(rows), origin]
        text = "\n\n".join(parts) + "\n"
        write_text(self.folder / f"{name}.csv", scores.to_csv(index=False))
        write_text(self.folder / f"{name}_table.csv", summary.to_csv())
        write_text(self.folder / f"{name}.md", text)
        self._write_all()
        return text

    def _write_all(self) -> None:
        paths = [self.folder / f"{name}.md" for name in TABLES]
        texts = [path.read_text("utf-8") for path in paths if path.exists()]
        write_text(self.folder / "tables.md", "\n".join(["# Benchmark\n", *texts]))


def provenance(rows: Sequence[MethodSpec], extent: Extent) -> str:
    """Versions, machine, extent and weights in Markdown, with a digest of the code and weights."""
    available = [row for row in rows if not row.unavailable]
    infos = {row.name: load_weights(row.parameters.get("weights", "auto"))[1] for row in available if row.is_network}
    weights = ", ".join(_described(name, info) for name, info in infos.items()) or "none"
    external = [row.version for row in available if row.package]
    packages = ", ".join([f"torch {torch.__version__}", f"numpy {np.__version__}", *external])
    digest = hashlib.sha256("\n".join([_code_digest(), *(row.fingerprint for row in rows)]).encode()).hexdigest()
    return (
        f"*stemkit {__version__}, {packages}, Python {platform.python_version()}, "
        f"{describe_device(resolve_device('auto'))}; {extent}; the seeds of the images are fixed; weights: {weights}; "
        f"code and weights {digest[:8]}.*"
    )


def _described(name: str, info: NetworkInfo) -> str:
    training = info.training
    origin = f"{training['images']} images, seed {training['seed']}" if "images" in training else "see its model card"
    return f"{name} {info.sha256[:8]} ({origin})"


@cache
def _code_digest() -> str:
    """Digest of stemkit's source files, and of the weights and images that ship."""
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(package.rglob("*")):
        if path.suffix in (".py", ".safetensors", ".npz"):
            digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _unavailable(rows: Sequence[MethodSpec]) -> list[str]:
    """A sentence on the methods that were not run, by reason."""
    reasons = dict.fromkeys(row.unavailable for row in rows if row.unavailable)
    parts = [f"{', '.join(row.name for row in rows if row.unavailable == each)} ({each})" for each in reasons]
    return [f"Not run: {'; '.join(parts)}."] if parts else []


# --- figure ------------------------------------------------------------------------------------------------------


def example_figure(rows: Sequence[MethodSpec]) -> Figure:
    """Results of the methods on four images, on the grey scale of the true image.

    Parameters
    ----------
    rows : sequence of MethodSpec
        Methods; those that locate columns only, ablations and unavailable ones are left out.

    Returns
    -------
    matplotlib Figure
    """
    from matplotlib.figure import Figure

    shown = [row for row in rows if not (row.unavailable or row.is_locator or row.is_ablation)]
    n_columns = len(shown) + 1
    size = (PANEL_WIDTH * n_columns, PANEL_HEIGHT * len(EXAMPLES) + TITLE_HEIGHT)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(EXAMPLES), n_columns, squeeze=False)
    for k, (line, (name, index)) in enumerate(zip(axes, EXAMPLES, strict=True)):
        noisy, true_image = _example(name, index)
        images = {row.name: _result(row, noisy) for row in shown} | {"truth": true_image}
        for axis, (title, image) in zip(line, images.items(), strict=True):
            _draw(axis, image, true_image, title if k == 0 else "")
    return figure


def _example(name: str, index: int) -> tuple[xr.DataArray, xr.DataArray]:
    """A noisy image and its true image."""
    pair = scenes(name, index + 1).pairs.isel(image=index)
    mode = str(pair["mode"].values) if "mode" in pair.coords else name
    noisy = pair["noisy"].drop_vars(("arrangement", "held_back", "mode"), errors="ignore").assign_attrs(mode=mode)
    return noisy, pair["enhance"]


def _result(row: MethodSpec, noisy: xr.DataArray) -> xr.DataArray:
    method = row.create()
    return noisy if method is None else method.fit(noisy).transform(noisy)


def _draw(axis: Axes, image: xr.DataArray, truth: xr.DataArray, title: str) -> None:
    part, of_truth = (np.asarray(each.values)[:SHOWN, :SHOWN] for each in (image, truth))
    axis.imshow(part, cmap="gray", vmin=of_truth.min(), vmax=of_truth.max(), interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title.replace(", ", ",\n"), fontsize=7)
