"""EMD files: those of Velox, and those of the Berkeley format (NCEM, Prismatic)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stemkit.io import hdf5, velox
from stemkit.io.calibration import pixel_sizes_of, seconds_per
from stemkit.io.checks import FormatError
from stemkit.io.file_dataset import FileDataset
from stemkit.io.signals import FRAME_NAMES, positive_or_none

if TYPE_CHECKING:
    import h5py

__all__ = ["load"]

#: Names of an axis of energies.
_ENERGY = ("energy", "e", "energy loss", "ev")


def load(path: Path) -> list[FileDataset]:
    """Load the images of an EMD file; other datasets are listed without their data."""
    with hdf5.opened(path) as file:
        if velox.is_velox(file):
            return velox.datasets(path, file)
        return _berkeley(path, file)


def _berkeley(path: Path, file: h5py.File) -> list[FileDataset]:
    """Datasets of the groups with the attribute ``emd_group_type``."""
    groups: list[h5py.Group] = []

    def visit(_: str, item: Any) -> None:
        if "emd_group_type" in item.attrs and hasattr(item, "keys"):
            groups.append(item)

    file.visititems(visit)
    microscope = hdf5.group(file, "microscope")
    attrs = _microscope(hdf5.attributes(microscope)) if microscope is not None else {}
    found = [_array(path, group, attrs) for group in groups if _stored(group) is not None]
    if not found:
        raise FormatError("it has no image: neither Data/Image, as files of Velox, nor a group with emd_group_type")
    return found


def _stored(group: h5py.Group) -> h5py.Dataset | None:
    """The array of a group: the dataset named data, or else the only one that is no axis."""
    names = [n for n in group if not n.startswith("dim")]
    return next((d for n in ("data", *names) if (d := hdf5.dataset(group, n)) is not None and d.ndim > 1), None)


def _array(path: Path, group: h5py.Group, attrs: dict[str, Any]) -> FileDataset:
    stored = _stored(group)
    assert stored is not None
    axes = [_axis(hdf5.dataset(group, f"dim{i + 1}")) for i in range(stored.ndim)]
    order = _order([axis["name"] for axis in axes])
    axes = [axes[i] for i in order]

    def arrange(values: NDArray) -> NDArray:
        return values.transpose(order)

    sizes, note = pixel_sizes_of([a["scale"] for a in axes[-2:]], [a["units"] for a in axes[-2:]])
    first: dict[str, Any] = axes[0] if len(axes) == 3 else {"name": "", "units": "", "values": None}
    seconds, values = seconds_per(first["units"]), first["values"]
    name = str(group.name).rsplit("/", 1)[-1]
    energy = any(a["name"] in _ENERGY or str(a["units"]).strip("[]").casefold() in ("ev", "kev") for a in axes)
    return hdf5.image_of(
        path,
        stored,
        arrange,
        name=name,
        refusal="a spectrum image" if energy else "",
        pixel_sizes=sizes,
        note=note,
        attrs={"title": name, **attrs},
        series=seconds is not None or first["name"] in FRAME_NAMES,
        times=None if seconds is None or values is None else seconds * values,
    )


def _axis(stored: h5py.Dataset | None) -> dict[str, Any]:
    """Name, unit, positions and spacing of an axis."""
    if stored is None or stored.ndim != 1 or stored.size == 0 or stored.dtype.kind not in "iuf":
        return {"name": "", "units": "", "values": None, "scale": None}
    attrs = hdf5.attributes(stored)
    values = np.asarray(stored[...], dtype=np.float64)
    scale = (values[-1] - values[0]) / (values.size - 1) if values.size > 1 else None
    return {
        "name": str(attrs.get("name", "")).strip().casefold().removeprefix("r_"),  # Prismatic: R_x, R_y
        "units": attrs.get("units", ""),
        "values": values,
        "scale": scale,
    }


def _order(names: list[str]) -> list[int]:
    """Order of the stored axes with y and x last; without these names the stored order."""
    if names.count("y") != 1 or names.count("x") != 1:
        return list(range(len(names)))
    return [i for i, name in enumerate(names) if name not in ("y", "x")] + [names.index("y"), names.index("x")]


def _microscope(attrs: dict[str, Any]) -> dict[str, float]:
    """Voltage in kV and dwell time in s."""
    volts, dwell_time = (positive_or_none(attrs.get(name)) for name in ("high tension", "dwell time"))
    found = {"voltage": None if volts is None else volts / 1000, "dwell_time": dwell_time}
    return {key: value for key, value in found.items() if value is not None}
