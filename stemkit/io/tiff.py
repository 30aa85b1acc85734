"""TIFF files with the calibration of ImageJ, OME, DigitalMicrograph or FEI, and the attributes of stemkit."""

from __future__ import annotations

import logging
import warnings
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.images.pixel_size import pixel_sizes
from stemkit.io import tiff_calibration as tags
from stemkit.io import tiff_pages
from stemkit.io.attributes import PROVENANCE, attributes_of, pack
from stemkit.io.checks import FormatError
from stemkit.io.file_dataset import FileDataset, make_dataset, placeholder

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

__all__ = ["load", "save"]

#: Key of the attributes in ImageJ's description.
_ATTRIBUTES = "stemkit_attrs"
#: Key of the shape.
_SHAPE = "stemkit_shape"
#: Key of the times of frames.
_TIMES = "stemkit_times"
#: Photometric interpretations whose numbers are not yet intensities: white is 0, colours, indices of a palette.
_CONVERTED = (0, 2, 3, 5, 6, 8)


def load(path: Path) -> list[FileDataset]:
    """Load the datasets of a file, one per series of pages of equal shape."""
    tiff_pages.check_chain(path)
    with _opened(path) as tif:
        if not tif.pages or not tif.series:
            raise FormatError("it has no pages: it is truncated or damaged")
        described, several = tags.description(tif), len(tif.series) > 1
        return [
            _series(path, tif, i, described if i == 0 else {}, f"series {i}" if several else "")
            for i in range(len(tif.series))
        ]


def save(image: xr.DataArray, path: Path, provenance: str) -> None:
    """Write pixels, pixel size, attributes and provenance in the form of ImageJ's files.

    The dtype is kept; ImageJ itself opens uint8, uint16 and float32, but not float64. Maps such as ``recorded`` are
    omitted.
    """
    import tifffile

    sizes = pixel_sizes(image)
    tifffile.imwrite(
        path,
        np.ascontiguousarray(image.values),
        photometric="minisblack",
        metadata=None,
        description=_imagej_description(image, provenance),
        software="stemkit",
        resolution=None if sizes is None else (_as_fraction(1 / sizes[1]), _as_fraction(1 / sizes[0])),
        resolutionunit="NONE",
        extratags=[] if sizes is None else tags.dm_tags(sizes),
    )


# --- writing -----------------------------------------------------------------------------------------------------


def _imagej_description(image: xr.DataArray, provenance: str) -> str:
    """ImageJ's description with the keys of stemkit."""
    series = "frame" in image.dims
    count = image.sizes[image.dims[0]] if image.ndim == 3 else 1
    lines = ["ImageJ=1.54f", f"images={count}"]
    if series or count > 1:
        lines.append(f"{'frames' if series else 'slices'}={count}")
    if pixel_sizes(image) is not None:
        lines.append("unit=nm")
    if series and "time" in image.coords:
        lines.append(f"{_TIMES}={pack(image.coords['time'].values)}")
    lines += [
        f"{PROVENANCE}={provenance}",
        f"{_ATTRIBUTES}={pack(attributes_of(image))}",
        f"{_SHAPE}={pack(image.shape)}",
    ]
    return "\n".join(lines) + "\n"


def _as_fraction(value: float) -> tuple[int, int]:
    """The value as a fraction of two 32-bit integers, as TIFF stores it."""
    limit = 2**32 - 1
    exact = Fraction(value)
    nearest = exact.limit_denominator(min(limit, max(1, int(limit / max(value, 1.0)))))
    if nearest <= 0 or nearest.numerator > limit:
        raise ValueError(f"TIFF can't store a pixel size of {1 / value:.3g} nm: write .nc")
    return nearest.numerator, nearest.denominator


# --- reading -----------------------------------------------------------------------------------------------------


def _opened(path: Path) -> TiffFile:
    """The open file; other files that OME-XML names are not opened, and messages to a log are not printed."""
    import tifffile

    logger = logging.getLogger("tifffile")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return tifffile.TiffFile(path, _multifile=False)


def _series(path: Path, tif: TiffFile, index: int, described: dict[str, str], name: str) -> FileDataset:
    series = tif.series[index]
    page: Any = series.keyframe
    tiff_pages.check(tif, series)
    ome = tags.ome_pixels(tif) if index == 0 else None
    shape = _shape(series, described)
    sizes, note = tags.calibration(page, described, ome)
    attrs = {**tags.fei_attributes(page), **tags.json_entry(described, _ATTRIBUTES, dict)}
    if PROVENANCE in described:
        attrs[PROVENANCE] = described[PROVENANCE]
    fields: dict[str, Any] = {"name": name, "pixel_sizes": sizes, "attrs": attrs, "note": note}
    if len(shape) == 3:
        fields |= _frames(series, described, ome, shape[0])

    def fetch() -> NDArray:
        with _opened(path) as again, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return _pixels(again.series[index]).reshape(shape)

    if "S" in series.axes or int(page.photometric) in _CONVERTED:
        values, color = tiff_pages.intensities(_pixels(series), page)
        return make_dataset(values if color else _in_shape(values, shape), color=color or "S" in series.axes, **fields)
    return make_dataset(placeholder(shape, series.dtype), fetch=fetch, **fields)


def _in_shape(values: NDArray, shape: tuple[int, ...]) -> NDArray:
    return values.reshape(shape) if values.size == np.prod(shape) else values


def _pixels(series: TiffPageSeries) -> NDArray:
    """Pixels of a series, with colour channels along the last axis."""
    values = series.asarray()
    return np.moveaxis(values, series.axes.index("S"), -1) if "S" in series.axes else values


def _shape(series: TiffPageSeries, described: dict[str, str]) -> tuple[int, ...]:
    """Shape of the pixels; the one that stemkit has written counts if the pages agree with it but for ones."""
    shape = tuple(int(n) for n in series.shape)
    if "S" in series.axes:
        channels = series.axes.index("S")
        return (*shape[:channels], *shape[channels + 1 :], shape[channels])
    written = tags.json_entry(described, _SHAPE, list)
    same = [n for n in written if n != 1] == [n for n in shape if n != 1]
    return tuple(written) if written and same and all(isinstance(n, int) and n > 0 for n in written) else shape


def _frames(series: TiffPageSeries, described: dict[str, str], ome: Any, count: int) -> dict[str, Any]:
    """Whether the pages are frames of one scan, and their times in s."""
    if "T" not in series.axes and "frames" not in described:
        return {}
    written = tags.json_entry(described, _TIMES, list)
    if len(written) == count and all(isinstance(t, int | float) for t in written):
        return {"series": True, "times": np.asarray(written, dtype=np.float64)}
    return {"series": True, "times": tags.frame_times(ome, described, count)}
