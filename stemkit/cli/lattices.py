"""Lattices and vacancies of the images of ``stemkit detect --lattice``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stemkit.cli.messages import compact
from stemkit.tables import counted

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from stemkit import AtomDetector
    from stemkit.structure import Lattice

__all__ = ["FoundLattices", "ImageLattice", "fit_image_lattices", "lattice_words"]


@dataclass(frozen=True)
class ImageLattice:
    """A lattice of one image, the columns it was fitted to and its vacancies (``y_px``, ``x_px``, ...)."""

    image: int
    lattice: Lattice
    columns: pd.DataFrame
    vacancies: pd.DataFrame


@dataclass(frozen=True)
class FoundLattices:
    """Lattices of all images of a file, and the reasons for which images have none."""

    lattices: tuple[ImageLattice, ...]
    reasons: tuple[str, ...]

    def of_image(self, index: int) -> list[ImageLattice]:
        """Lattices of one image."""
        return [found for found in self.lattices if found.image == index]

    def write(self, path: Path, unit: str) -> str:
        """Write the vacancies and return a description of the lattices; without a lattice nothing is written."""
        import pandas as pd

        from stemkit.detection.exports import write_columns

        lines = [f"{path}: {_n_vacancies(sum(len(found.vacancies) for found in self.lattices))}"][: len(self.lattices)]
        n_images = 1 + max((found.image for found in self.lattices), default=0)
        for image in range(n_images):
            for number, found in enumerate(self.of_image(image), 1):
                where = f"image {image}, lattice {number}" if n_images > 1 else f"lattice {number}"
                lines.append(f"  {where}: {lattice_words(found.lattice)}, {_n_vacancies(len(found.vacancies))}")
        written = "" if self.lattices else f", and {path.name} was not written"
        lines += [f"  note: no lattice was fitted{written}: {reason}" for reason in self.reasons]
        if self.lattices:
            write_columns(pd.concat([found.vacancies for found in self.lattices]), path, overwrite=True, unit=unit)
        return "\n".join(lines)


def lattice_words(lattice: Lattice) -> str:
    """The cell of a lattice with its statistical errors, its sites and its columns."""
    a, b = (compact(*one) for one in zip(lattice.lengths, lattice.lengths_err, strict=True))
    scale = lattice.pixel_size_error if lattice.unit == "nm" else 0.0
    others = f"; the pixel size adds {100 * scale:.2g} % to a and b" if scale else ""
    return (
        f"a = {a} {lattice.unit}, b = {b} {lattice.unit}, γ = {compact(lattice.angle, lattice.angle_err)}° "
        f"(statistical errors{others}), {counted(len(lattice.sites), 'site')}, {int((lattice.site >= 0).sum())} of "
        f"{counted(len(lattice.site), 'column')}"
    )


def _n_vacancies(n: int) -> str:
    return counted(n, "vacancy", "vacancies")


def fit_image_lattices(
    table: pd.DataFrame, shown: xr.DataArray, detector: AtomDetector, pixel_size_error: float
) -> FoundLattices:
    """Fit the lattices of each image and find their vacancies."""
    from stemkit.images import split
    from stemkit.structure import fit_lattices

    lattices, reasons = [], []
    for i, image in enumerate(split(shown)):
        columns = table[table["image"] == i]
        fitted = fit_lattices(columns, pixel_size_error=pixel_size_error).lattices
        if not fitted:
            reasons.append(_without_lattice(columns))
        for number, lattice in enumerate(fitted):
            vacancies = _vacancies(columns, lattice, image, detector).assign(image=i, lattice=number)
            lattices.append(ImageLattice(i, lattice, columns, vacancies))
    return FoundLattices(tuple(lattices), tuple(reasons))


def _vacancies(columns: pd.DataFrame, lattice: Lattice, image: xr.DataArray, detector: AtomDetector) -> pd.DataFrame:
    from stemkit.structure import find_vacancies

    sites = find_vacancies(columns, lattice, image, detector)
    return sites[sites["vacant"]].drop(columns="vacant")


def _without_lattice(columns: pd.DataFrame) -> str:
    """Reason why no lattice was fitted to the columns of an image."""
    from stemkit.structure import fit_lattice

    try:
        return f"the lattice of {lattice_words(fit_lattice(columns))} contains too few columns"
    except ValueError as error:
        return str(error)
