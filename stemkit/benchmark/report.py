"""What a benchmark leaves behind: all scores, the tables in Markdown, and pictures."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

import stemkit
from stemkit.benchmark.contest import TABLES, Extent, Table
from stemkit.benchmark.contestants import Contestant
from stemkit.benchmark.scenes import scenes
from stemkit.compute import describe_device, resolve_device
from stemkit.denoising import NetworkInfo, load_weights
from stemkit.io.atomic import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "made_with", "pictures"]

NOT_RUN = "Not run"
#: Images of the sets that are shown, and the part of them, px.
SHOWN = (("haadf", 0), ("haadf", 7), ("bf", 3), ("simulated", 2))
PART = 128


class Report:
    """Tables in a folder, one by one: what is there and was made alike is not made again.

    Parameters
    ----------
    folder : Path
        Gets for each table ``NAME.csv``, all scores, ``NAME_table.csv`` and ``NAME.md``, what is printed; and
        ``tables.md``, all that are there.
    made_with : str
        How the tables are made, in Markdown; it stands above each.
    """

    def __init__(self, folder: Path, made_with: str):
        self.folder, self.made_with = folder, made_with
        folder.mkdir(parents=True, exist_ok=True)

    def known(self, name: str) -> str | None:
        """A table that is there, and was made alike; else None."""
        path = self.folder / f"{name}.md"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return text if self.made_with in text else None

    def add(self, name: str, table: Table, scores: pd.DataFrame, rows: Sequence[Contestant]) -> str:
        """Write a table down, and return it in Markdown."""
        short = table.short(scores).rename_axis("method") if len(scores) else pd.DataFrame()
        lines = [f"## {table.title}", table.shows]
        lines.append(str(short.to_markdown()) if len(short) else f"{NOT_RUN}: no networks were trained for it.")
        missing = {row.name: row.missing for row in rows if row.missing and table.takes(row)}
        if missing and len(short):
            why = {reason: [row for row in missing if missing[row] == reason] for reason in missing.values()}
            parts = [f"{', '.join(names)} ({reason})" for reason, names in why.items()]
            lines.append(f"{NOT_RUN}: {'; '.join(parts)}.")
        text = "\n\n".join([*lines, self.made_with]) + "\n"
        self._write(f"{name}.csv", scores.to_csv(index=False))
        self._write(f"{name}_table.csv", short.to_csv())
        self._write(f"{name}.md", text)
        there = [self.folder / f"{each}.md" for each in TABLES]
        parts = [path.read_text(encoding="utf-8") for path in there if path.exists()]
        self._write("tables.md", "\n".join(["# Benchmark\n", *parts]))
        return text

    def _write(self, name: str, text: str) -> None:
        with whole_file(self.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def made_with(rows: Sequence[Contestant], extent: Extent) -> str:
    """Versions, machine, extent and weights, in Markdown."""
    weights = {row.name: load_weights(row.parameters.get("weights", "auto"))[1] for row in rows if _has_weights(row)}
    return (
        f"*stemkit {stemkit.__version__}, torch {torch.__version__}, numpy {np.__version__}, Python "
        f"{platform.python_version()}, {describe_device(resolve_device('auto'))}; {extent}; the images' seeds are "
        f"fixed; weights: {', '.join(_trained(name, info) for name, info in weights.items())}.*"
    )


def _trained(name: str, info: NetworkInfo) -> str:
    made = info.training
    how = f"{made['images']} images, seed {made['seed']}" if "images" in made else "see its model card"
    return f"{name} {info.sha256[:8]} ({how})"


def _has_weights(row: Contestant) -> bool:
    return row.learnt and not row.missing


def pictures(rows: Sequence[Contestant]) -> Figure:
    """What each method makes of the same images."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if not row.missing and not row.locates]
    figure = Figure(figsize=(1.6 * (len(shown) + 1), 1.7 * len(SHOWN) + 0.3), layout="constrained")
    axes = figure.subplots(len(SHOWN), len(shown) + 1, squeeze=False)
    for k, (line, (which, index)) in enumerate(zip(axes, SHOWN, strict=True)):
        pair = scenes(which, index + 1).pairs.isel(image=index)
        mode = str(pair["mode"].values) if "mode" in pair.coords else which
        noisy = pair["noisy"].drop_vars(("arrangement", "held_back", "mode"), errors="ignore").assign_attrs(mode=mode)
        clean = pair["enhance"].values[:PART, :PART]
        low, high = float(clean.min()), float(clean.max())
        given = [noisy if (method := row.method()) is None else method.fit(noisy).transform(noisy) for row in shown]
        for axis, values, name in zip(
            line,
            [*(np.asarray(i.values)[:PART, :PART] for i in given), clean],
            [*(r.name for r in shown), "truth"],
            strict=True,
        ):
            axis.imshow(values, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if k == 0:
                axis.set_title(name.replace(", ", ",\n"), fontsize=7)
    return figure
