"""What a benchmark leaves behind: all scores, the tables in Markdown, and pictures."""

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

from stemkit._version import __version__
from stemkit.atomic import whole_file
from stemkit.benchmark.contest import TABLES, Extent
from stemkit.benchmark.contestants import Contestant
from stemkit.benchmark.scenes import scenes
from stemkit.compute import describe_device, resolve_device
from stemkit.denoising import NetworkInfo, load_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Report", "made_with", "pictures"]

#: Images of the sets that are shown, and the part of them, px.
SHOWN = (("haadf", 0), ("haadf", 7), ("bf", 3), ("simulated", 15))
PART = 128


class Report:
    """Tables in a folder, one by one: what is there and was made alike is not made again.

    Parameters
    ----------
    folder : Path
        Gets for each table ``NAME.csv``, all scores, ``NAME_table.csv`` and ``NAME.md``, what is printed; and
        ``tables.md``, all that are there.
    extent : Extent
        How much is judged.
    """

    def __init__(self, folder: Path, extent: Extent):
        self.folder, self.extent = folder, extent
        folder.mkdir(parents=True, exist_ok=True)

    def table(self, name: str, rows: Sequence[Contestant]) -> str:
        """One of ``TABLES`` in Markdown: the one that is there where it was made alike, else made and written down."""
        table = TABLES[name]
        taken = [row for row in rows if table.takes(row)]
        there, made = self.folder / f"{name}.md", made_with(taken, self.extent)
        known = there.read_text(encoding="utf-8") if there.exists() else ""
        if made in known:
            return known
        able = [row for row in taken if not row.missing]
        scores = table.make(able, self.extent) if able else pd.DataFrame()
        short = table.short(scores).rename_axis("method") if able else pd.DataFrame()
        lines = [
            f"## {table.title}",
            table.shows,
            *([str(short.to_markdown())] if able else []),
            *_missing(taken),
            made,
        ]
        text = "\n\n".join(lines) + "\n"
        self._write(f"{name}.csv", scores.to_csv(index=False))
        self._write(f"{name}_table.csv", short.to_csv())
        self._write(f"{name}.md", text)
        parts = [self.folder / f"{each}.md" for each in TABLES]
        self._write("tables.md", "\n".join(["# Benchmark\n", *(p.read_text("utf-8") for p in parts if p.exists())]))
        return text

    def _write(self, name: str, text: str) -> None:
        with whole_file(self.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def made_with(rows: Sequence[Contestant], extent: Extent) -> str:
    """Versions, machine, extent and weights, in Markdown, and a digest of all code and weights."""
    here = [row for row in rows if not row.missing]
    weights = {row.name: load_weights(row.parameters.get("weights", "auto"))[1] for row in here if row.learnt}
    trained = [_trained(name, info) for name, info in weights.items()]
    packages = [f"torch {torch.__version__}", f"numpy {np.__version__}", *(row.version for row in here if row.package)]
    code = hashlib.sha256("\n".join([_code(), *(row.made_of for row in rows)]).encode()).hexdigest()
    return (
        f"*stemkit {__version__}, {', '.join(packages)}, Python {platform.python_version()}, "
        f"{describe_device(resolve_device('auto'))}; {extent}; the images' seeds are fixed; weights: "
        f"{', '.join(trained) or 'none'}; code and weights {code[:8]}.*"
    )


def _trained(name: str, info: NetworkInfo) -> str:
    made = info.training
    how = f"{made['images']} images, seed {made['seed']}" if "images" in made else "see its model card"
    return f"{name} {info.sha256[:8]} ({how})"


@cache
def _code() -> str:
    """Of stemkit itself, and of the weights that ship."""
    digest, home = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(home.rglob("*")):
        if path.suffix in (".py", ".safetensors", ".npz"):
            digest.update(path.relative_to(home).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _missing(rows: Sequence[Contestant]) -> list[str]:
    """Who was not run, and why."""
    missing = {row.name: row.missing for row in rows if row.missing}
    why = {reason: [row for row in missing if missing[row] == reason] for reason in missing.values()}
    parts = [f"{', '.join(names)} ({reason})" for reason, names in why.items()]
    return [f"Not run: {'; '.join(parts)}."] if parts else []


def pictures(rows: Sequence[Contestant]) -> Figure:
    """What each method makes of the same images."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if not row.missing and not row.locates and not row.ablated]
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
