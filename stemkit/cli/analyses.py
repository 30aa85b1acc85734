"""Analyses of ``stemkit structure``: each makes a table, a figure and a line of text."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.figures import non_interactive_pyplot
from stemkit.cli.lattices import lattice_words
from stemkit.tables import counted, unit_of_table

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from stemkit import AtomDetector
    from stemkit.structure import Lattice

__all__ = ["ANALYSES", "Analysis", "Crystal", "Result"]

#: p-value below which a vector is counted as significant (chosen).
MAX_P_VALUE = 0.01
#: Height and width of a panel of a figure, inches (chosen).
PANEL_SIZE = (6.0, 6.6)
#: Diameter of a marker of strain, spacings of columns on a square field (chosen).
MARKER_DIAMETER = 0.5
#: Quantile of strains at the ends of the colours (chosen: single wrong columns are beyond it).
COLOR_QUANTILE = 0.98


@dataclass(frozen=True)
class Crystal:
    """A table with its lattice, the image on which it is drawn, and a detector if this is the recorded image."""

    table: pd.DataFrame
    lattice: Lattice
    image: xr.DataArray
    detector: AtomDetector | None

    @property
    def measured(self) -> dict[str, Any]:
        """Image and detector for functions that measure, or nothing."""
        return {} if self.detector is None else {"image": self.image, "detector": self.detector}


@dataclass(frozen=True)
class Result:
    """Table, one-line summary, and figure."""

    table: pd.DataFrame
    line: str
    draw: Callable[[], Figure]

    def write(self, crystal: Crystal, path: Path) -> None:
        """Write the table; rows of columns have their number in the file as ``column``."""
        from stemkit.atomic import whole_file

        table = self.table
        if len(table) == len(crystal.table) and table.index.equals(crystal.table.index):
            table = table.rename_axis("column").reset_index()
            pixels = crystal.table[["y_px", "x_px"]].reset_index(drop=True)
            table = table.assign(**{name: pixels[name] for name in pixels if name not in table})
        elif table.index.name is not None:
            table = table.reset_index()
        if "y" in table:
            table = table.assign(unit=unit_of_table(crystal.table))
        with whole_file(path) as temporary:
            table.to_csv(temporary, index=False)


@dataclass(frozen=True)
class Analysis:
    """An option of the command, which also names the results."""

    name: str
    help: str
    step: str
    run: Callable[[Crystal, argparse.Namespace], Result]


def _axes(n: int = 1, rows: int = 1) -> tuple[Figure, Any]:
    plt = non_interactive_pyplot()
    size = (PANEL_SIZE[1] * n / rows, PANEL_SIZE[0] * rows)
    figure, axes = plt.subplots(rows, n // rows, figsize=size, layout="constrained", squeeze=False)
    return figure, axes.ravel()


def _polarization(crystal: Crystal, arguments: argparse.Namespace) -> Result:
    from stemkit.plotting import show_displacements
    from stemkit.structure import cage_displacements, polarization

    if len(crystal.lattice.sites) < 2:
        raise ValueError(
            "the cell of the fitted lattice has one site, but polarization needs one sublattice in the cages of another"
        )
    result = cage_displacements(crystal.table, lattice=crystal.lattice, n_cage=arguments.n_cage)
    name = "displacement"
    if arguments.born_charge is not None:
        name = "polarization"
        result = polarization(result, arguments.born_charge, arguments.cell_volume)
    known = result.dropna(subset=[f"{name}_y"])
    unit = result.attrs["units"][f"{name}_y"]
    significant = int((known["p_value"] < MAX_P_VALUE).sum())
    mean = known[[f"{name}_y", f"{name}_x"]].mean()
    line = f"{counted(len(known), 'vector')}, mean y {mean.iloc[0]:.3g} and x {mean.iloc[1]:.3g} {unit}"
    line += f", {significant} with p < {MAX_P_VALUE:g}"

    def draw() -> Figure:
        figure, (ax,) = _axes()
        show_displacements(crystal.image, result, ax, name=name)
        return figure

    return Result(result, line, draw)


def _counts(crystal: Crystal, arguments: argparse.Namespace) -> Result:
    from stemkit.plotting import show_counts, show_mixture
    from stemkit.structure import count_atoms, sublattices

    by = arguments.by or "intensity"
    # intensities are those of columns of one element
    label = sublattices(crystal.table, crystal.lattice)
    chosen = crystal.table[label == 0] if label.max() > 0 else crystal.table
    counts = count_atoms(chosen, by=by, first=arguments.first)
    columns = counts.columns.reindex(crystal.table.index)
    columns["fitted"] = columns["fitted"].eq(True)
    columns["reason"] = columns["reason"].fillna("another sublattice")
    columns = columns.assign(y=crystal.table["y"], x=crystal.table["x"])

    def draw() -> Figure:
        figure, axes = _axes(2)
        show_counts(crystal.image, columns, axes[0])
        show_mixture(columns, counts.components, counts.width, axes[1], by=by)
        return figure

    which = "" if label.max() == 0 else " of the brightest sublattice"
    n = int(columns["count"].notna().sum())
    low, high = columns["count"].min(), columns["count"].max()
    # with one component, all numbers are that of --first
    atoms = f", {low} to {high} atoms" if n and low < high else ""
    line = f"{counted(n, 'column')}{which}{atoms}: {counts.verdict}"
    return Result(columns, line, draw)


def _grains(crystal: Crystal, arguments: argparse.Namespace) -> Result:
    from stemkit.plotting import show_grains
    from stemkit.structure import find_grains, fit_lattices

    found = find_grains(crystal.table, fit_lattices(crystal.table, pixel_size_error=arguments.pixel_size_error))

    def draw() -> Figure:
        figure, (ax,) = _axes()
        show_grains(crystal.image, found, ax)
        return figure

    none = int((found.labels < 0).sum())
    lines = [
        f"{counted(len(found.grains), 'grain')}, {counted(none, 'column')} in none",
        *(f"lattice {k}: {lattice_words(lattice)}" for k, lattice in enumerate(found.lattices, 1)),
    ]
    for one in found.boundaries.itertuples():
        turn = f", {one.misorientation:.2f} ± {one.misorientation_err:.2f}°" if one.same_phase else ""
        lines.append(f"grains {one.first} and {one.second}: {one.kind}{turn}")
    return Result(found.columns, "\n  ".join(lines), draw)


def _rings(crystal: Crystal, arguments: argparse.Namespace) -> Result:
    from stemkit.plotting import show_rings
    from stemkit.structure import ring_pairs, rings

    found = rings(crystal.table)

    def draw() -> Figure:
        figure, (ax,) = _axes()
        show_rings(crystal.image, crystal.table, found, ax)
        return figure

    sizes = ", ".join(f"{n} of size {size}" for size, n in found["size"].value_counts().sort_index().items())
    pairs = counted(len(ring_pairs(found)), "pair")
    line = f"{counted(len(found), 'ring')} ({sizes}), {pairs} of five and seven"
    as_text = {name: [" ".join(map(str, one)) for one in found[name]] for name in ("atoms", "neighbors")}
    return Result(found.assign(**as_text), line, draw)


def _dumbbells(crystal: Crystal, arguments: argparse.Namespace) -> Result:
    from stemkit.plotting import show_image
    from stemkit.structure import dumbbells, mean_distances

    found = dumbbells(crystal.table, by=arguments.by or "amplitude")
    unit = unit_of_table(crystal.table)

    def draw() -> Figure:
        figure, (ax, histogram) = _axes(2)
        show_image(crystal.image, ax)
        pixels = crystal.table[["y_px", "x_px"]]
        for one in found.itertuples():
            ends = pixels.loc[[one.i, one.j]]
            ax.plot(ends["x_px"], ends["y_px"], color="#e8543f", linewidth=1.2)
        if len(found):
            # on a perfect lattice, all distances are equal but for rounding
            middle = found["distance"].median()
            reach = max(4 * found["distance"].std(ddof=0), 0.01 * middle)
            histogram.hist(found["distance"], 30, range=(middle - reach, middle + reach), color="#31688e")
        histogram.set(xlabel=f"distance ({unit})", ylabel="dumbbells")
        return figure

    if not len(found):
        return Result(found, "no dumbbell: no two columns are much nearer to each other than to the others", draw)
    mean = mean_distances(crystal.table, found, pixel_size_error=arguments.pixel_size_error).iloc[0]
    distance = f"{mean['distance']:.5g} ± {mean['distance_total_err']:.2g} {unit}"
    line = f"{counted(len(found), 'dumbbell')}, mean distance {distance}"
    if "polarity" in mean:
        line += f", mean polarity {mean['polarity']:.3g} ± {mean['polarity_err']:.2g}"
    return Result(found, line, draw)


def _dislocations(crystal: Crystal, arguments: argparse.Namespace) -> Result:
    from stemkit.plotting import show_image
    from stemkit.structure import find_dislocations, fit_lattice

    found = find_dislocations(crystal.table, fit_lattice(crystal.table, order=False))
    # px per unit of the table along both axes
    scale = (crystal.table[["y_px", "x_px"]].std().to_numpy() / crystal.table[["y", "x"]].std().to_numpy()).tolist()

    def draw() -> Figure:
        figure, (ax,) = _axes()
        show_image(crystal.image, ax)
        first = crystal.table.iloc[0]
        y, x = (
            first[f"{axis}_px"] + (found[axis] - first[axis]) * factor for axis, factor in zip("yx", scale, strict=True)
        )
        ax.plot(x, y, "+", color="#f0e442", markersize=14, markeredgewidth=2)
        arrows = found["burgers_x"] * scale[1], found["burgers_y"] * scale[0]
        ax.quiver(x, y, *arrows, color="#e8543f", angles="xy", scale_units="xy", scale=1)
        return figure

    vectors = found.groupby(["burgers_a", "burgers_b"]).size().sort_values(ascending=False)
    kinds = ", ".join(f"{n} with ({a} {b})" for (a, b), n in vectors.items())
    return Result(found, f"{counted(len(found), 'dislocation')}{': ' if kinds else ''}{kinds}", draw)


def _vacancies(crystal: Crystal, arguments: argparse.Namespace) -> Result:
    from stemkit.plotting import show_defects
    from stemkit.structure import find_vacancies, missing_sites

    by = arguments.by or "amplitude"
    if crystal.detector is None:
        sites = missing_sites(crystal.table, crystal.lattice, by=by)
        line = f"{counted(len(sites), 'site')} without a column (--image FILE tests whether they are vacant)"
        marked = sites.assign(kind="missing")
    else:
        rate = arguments.false_discovery_rate
        sites = find_vacancies(crystal.table, crystal.lattice, **crystal.measured, false_discovery_rate=rate, by=by)
        marked = sites[sites["vacant"]].assign(kind="vacancy")
        line = (
            f"{counted(len(marked), 'vacancy', 'vacancies')} of {counted(len(sites), 'site')} without a column, at a "
            f"false discovery rate of {rate:g}"
        )

    def draw() -> Figure:
        figure, (ax,) = _axes()
        show_defects(crystal.image, _with_unit(marked, crystal), ax)
        return figure

    return Result(sites, line, draw)


def _defects(crystal: Crystal, arguments: argparse.Namespace) -> Result:
    from stemkit.plotting import show_defects, show_detection_limit
    from stemkit.structure import point_defects

    rate, by = arguments.false_discovery_rate, arguments.by or "amplitude"
    result = point_defects(crystal.table, crystal.lattice, **crystal.measured, false_discovery_rate=rate, by=by)

    def draw() -> Figure:
        figure, axes = _axes(2)
        show_defects(crystal.image, result.defects, axes[0])
        show_detection_limit(crystal.image, result.columns, axes[1])
        return figure

    return Result(result.defects, result.verdict, draw)


def _strain(crystal: Crystal, arguments: argparse.Namespace) -> Result:
    import numpy as np

    from stemkit.structure import strain

    result = strain(crystal.table, crystal.lattice)
    parts = {name: rf"$\varepsilon_{{{name[1:]}}}$" for name in ("exx", "eyy", "exy")} | {"rotation": "rotation"}
    size = (MARKER_DIAMETER * 72 * PANEL_SIZE[1] / np.sqrt(max(len(result), 1))) ** 2

    def draw() -> Figure:
        figure, axes = _axes(4, rows=2)
        for ax, (part, title) in zip(axes, parts.items(), strict=True):
            values = result[part] * (1 if part == "rotation" else 100)
            limit = float(np.nanquantile(np.abs(values), COLOR_QUANTILE)) if values.notna().any() else 1.0
            drawn = ax.scatter(result["x"], result["y"], c=values, cmap="RdBu_r", vmin=-limit, vmax=limit, s=size)
            ax.set(title=title, aspect="equal", xticks=[], yticks=[])
            ax.invert_yaxis()
            figure.colorbar(drawn, ax=ax, shrink=0.8, label="degrees" if part == "rotation" else "%")
        return figure

    known = result.dropna(subset=["exx"])
    numbers = ", ".join(f"{part} {100 * known[part].std():.2g} %" for part in ("exx", "eyy", "exy"))
    line = f"{counted(len(known), 'column')}, standard deviations {numbers}, rotation {known['rotation'].std():.2g}°"
    return Result(result, line, draw)


def _profile(crystal: Crystal, arguments: argparse.Namespace) -> Result:
    from stemkit.structure import interface_profile

    by = arguments.by or "amplitude"
    result = interface_profile(crystal.table, crystal.lattice, arguments.along, by=(by,))
    unit = unit_of_table(crystal.table)

    def draw() -> Figure:
        figure, axes = _axes(3)
        labels = {"spacing": f"spacing ({unit})", "ratio": "spacing / distance in the plane", by: by}
        for ax, (part, label) in zip(axes, labels.items(), strict=True):
            if part in result:
                ax.errorbar(result["position"], result[part], result[f"{part}_err"], fmt="o", markersize=3)
            ax.set(xlabel=f"position across the planes ({unit})", ylabel=label)
        return figure

    spacing, ratio = result["spacing"].median(), result["ratio"].median()
    line = f"{counted(len(result), 'plane')}, median spacing {spacing:.5g} {unit}, median ratio {ratio:.4g}"
    return Result(result, line, draw)


def _elements(crystal: Crystal, arguments: argparse.Namespace) -> Result:
    from stemkit.plotting import show_names
    from stemkit.structure import register_crystal

    by = arguments.by or "amplitude"
    found = register_crystal(crystal.table, arguments.elements, arguments.zone_axis, lattice=crystal.lattice, by=by)

    def draw() -> Figure:
        figure, (ax,) = _axes()
        show_names(crystal.image, found.columns, ax, missing=found.missing)
        return figure

    return Result(found.columns, found.verdict, draw)


def _with_unit(table: pd.DataFrame, crystal: Crystal) -> pd.DataFrame:
    table.attrs["unit"] = unit_of_table(crystal.table)
    return table


ANALYSES = {
    analysis.name: analysis
    for analysis in (
        Analysis(
            "polarization", "displacement of each column from its cage of neighbours", "measuring cages", _polarization
        ),
        Analysis("counts", "number of atoms of each column", "counting atoms", _counts),
        Analysis("grains", "grains, their lattices and boundaries", "fitting lattices", _grains),
        Analysis("rings", "rings of bonds in a two-dimensional material", "following bonds", _rings),
        Analysis("dumbbells", "pairs of near columns: distance and polarity", "pairing columns", _dumbbells),
        Analysis("dislocations", "dislocations and their Burgers vectors", "drawing circuits", _dislocations),
        Analysis("vacancies", "sites without a column", "measuring sites", _vacancies),
        Analysis("defects", "point defects, and the detection limit", "testing sites", _defects),
        Analysis("strain", "strain and rotation at each column", "measuring strain", _strain),
        Analysis("profile", "profile across the planes of columns", "averaging planes", _profile),
        Analysis("elements", "names of the columns from a crystal", "registering the crystal", _elements),
    )
}
