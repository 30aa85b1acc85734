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
from stemkit.benchmark.contest import Table
from stemkit.benchmark.contestants import Contestant
from stemkit.benchmark.scenes import scenes
from stemkit.compute import describe_device
from stemkit.io.atomic import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "pictures"]

NOT_RUN = "not run"
#: Images of the sets that are shown, and the part of them, px.
SHOWN = (("haadf", 0), ("haadf", 7), ("bf", 3), ("simulated", 2))
PART = 128


class Report:
    """Tables in a folder, complete after each one.

    Parameters
    ----------
    folder : Path
        Gets ``NAME.csv``, all scores of a table, ``NAME_table.csv``, what is printed, and ``tables.md``.
    command : str
        That made it.
    """

    def __init__(self, folder: Path, command: str):
        self.folder = folder
        self.parts = [f"# Benchmark\n\n{made_with(command)}"]
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, table: Table, scores: pd.DataFrame, rows: Sequence[Contestant]) -> str:
        """Write a table down, and return it in Markdown."""
        with whole_file(self.folder / f"{name}.csv") as temporary:
            scores.to_csv(temporary, index=False)
        short = table.short(scores) if len(scores) else pd.DataFrame()
        with whole_file(self.folder / f"{name}_table.csv") as temporary:
            short.rename_axis("method").to_csv(temporary)
        missing = {row.name: row.missing for row in rows if row.missing}
        lines = [f"## {table.title}", table.shows, str(short.rename_axis("method").to_markdown())]
        if len(short) == 0:
            lines[-1] = f"{NOT_RUN.capitalize()}: no networks were trained for it."
        elif missing and name not in ("ablations",):
            why = {reason: [row for row in missing if missing[row] == reason] for reason in missing.values()}
            names = [f"{', '.join(those)} ({reason})" for reason, those in why.items()]
            lines.append(f"{NOT_RUN.capitalize()}: {'; '.join(names)}.")
        part = "\n\n".join(lines)
        self.parts.append(part)
        with whole_file(self.folder / "tables.md") as temporary:
            temporary.write_text("\n\n".join(self.parts) + "\n")
        return part


def made_with(command: str) -> str:
    """Versions, machine and command, in Markdown."""
    return (
        f"`{command}`: stemkit {stemkit.__version__}, torch {torch.__version__}, numpy {np.__version__}, Python "
        f"{platform.python_version()}, {describe_device(torch.device('cpu'))}. The sets' seeds are fixed."
    )


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
