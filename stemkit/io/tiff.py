"""TIFF files with the calibration of ImageJ, DigitalMicrograph or FEI, and the attributes of stemkit."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard
from xml.etree import ElementTree

import numpy as np
import xarray as xr

from stemkit.images import pixel_sizes
from stemkit.io.attributes import PROVENANCE, attributes_of, mode_of, pack
from stemkit.io.recorded import Recorded, recorded
from stemkit.io.units import is_reciprocal, nm_per

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

__all__ = ["load", "save"]

Sizes = tuple[float, float]

#: Larger pixels in a unit of print are a resolution for printing, such as 72 per inch, nm (chosen).
_PRINT_PIXEL_SIZE = 1000.0
#: Units of a resolution for printing.
_PRINT_UNITS = ("inch", "in", "inches", "cm", "mm")
#: Keys of stemkit in ImageJ's description.
_ATTRIBUTES = "stemkit_attrs"
_SHAPE = "stemkit_shape"
#: Tags of FEI: settings as text, in two versions, and as XML.
_FEI_TEXT = (34680, 34682)
_FEI_XML = 34683
#: Tags of DigitalMicrograph: units and scales along y and x.
_DM_UNITS = (65004, 65003)
_DM_SCALES = (65010, 65009)
#: Tags of the TIFF specification (revision 6.0): description, resolution along y and x, unit of the resolution.
_DESCRIPTION = 270
_RESOLUTIONS = (283, 282)
_RESOLUTION_UNIT = 296


def load(path: Path) -> list[Recorded]:
    """Load the datasets of a file, one per series of pages of equal shape."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        described = _description(tif)
        several = len(tif.series) > 1
        return [
            _series(series, described if i == 0 else {}, f"series {i}" if several else "")
            for i, series in enumerate(tif.series)
        ]


def save(image: xr.DataArray, path: Path, provenance: str) -> None:
    """Write pixels, pixel size, attributes and provenance in the form of ImageJ's files.

    The dtype is kept; ImageJ itself opens uint8, uint16 and float32, but not float64. Maps such as ``measured`` are
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
    )


# --- writing -----------------------------------------------------------------------------------------------------


def _imagej_description(image: xr.DataArray, provenance: str) -> str:
    """ImageJ's description with the keys of stemkit."""
    frames = image.sizes.get("image", 1)
    lines = ["ImageJ=1.54f", f"images={frames}", *([f"slices={frames}"] if frames > 1 else [])]
    if pixel_sizes(image) is not None:
        lines.append("unit=nm")
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


def _series(series: TiffPageSeries, described: dict[str, str], name: str) -> Recorded:
    page: Any = series.keyframe
    values = series.asarray()
    shape = _json_entry(described, _SHAPE, list)
    if shape and np.prod(shape) == values.size:
        values = values.reshape(shape)
    colour = "S" in series.axes
    if colour:
        values = np.moveaxis(values, series.axes.index("S"), -1)
    sizes, note = _calibration(page, described)
    attrs = {**_fei_attributes(page), **_json_entry(described, _ATTRIBUTES, dict)}
    if PROVENANCE in described:
        attrs[PROVENANCE] = described[PROVENANCE]
    return recorded(values, colour=colour, name=name, pixel_sizes=sizes, attrs=attrs, note=note)


def _json_entry(described: dict[str, str], key: str, kind: type) -> Any:
    """Value of this type from the JSON of a key, empty without one."""
    value = json.loads(described[key]) if key in described else kind()
    return value if isinstance(value, kind) else kind()


def _description(tif: TiffFile) -> dict[str, str]:
    """The ``key=value`` lines of the first page's descriptions."""
    texts = tif.pages[0].tags.getall(_DESCRIPTION) or []  # type: ignore[union-attr]
    lines = [line.partition("=") for text in texts for line in str(text.value).splitlines()]
    return {key.strip(): value.strip() for key, equals, value in lines if equals}


def _calibration(page: TiffPage, described: dict[str, str]) -> tuple[Sizes | None, str]:
    """Pixel sizes in nm from the most specific source, and the text of a warning (empty: none)."""
    sizes = _fei_sizes(page) or _fei_xml_sizes(page) or _dm_sizes(page)
    if sizes is not None:
        return sizes, ""
    unit = described.get("unit") or _resolution_unit(page)
    if is_reciprocal(unit):
        return None, f"the axes are in {unit}, a unit of reciprocal space: the image is read without a pixel size"
    factor = nm_per(unit)
    resolution = [_resolution(page, code) for code in _RESOLUTIONS]
    if factor is None or not all(resolution):
        return None, ""
    y, x = (factor / r for r in resolution if r)
    if str(unit).lower() in _PRINT_UNITS and max(y, x) > _PRINT_PIXEL_SIZE:
        return None, ""
    return (y, x), ""


def _resolution(page: TiffPage, code: int) -> float:
    value = page.tags.valueof(code)
    return 0.0 if not value or not value[1] else value[0] / value[1]


def _resolution_unit(page: TiffPage) -> str | None:
    return {2: "inch", 3: "cm"}.get(int(page.tags.valueof(_RESOLUTION_UNIT) or 0))


def _dm_sizes(page: TiffPage) -> Sizes | None:
    """Pixel sizes from DigitalMicrograph's scale and unit of each axis."""
    scales = [page.tags.valueof(code) for code in _DM_SCALES]
    factors = [nm_per(page.tags.valueof(code)) for code in _DM_UNITS]
    y, x = (float(s) * f if s and f else 0.0 for s, f in zip(scales, factors, strict=True))
    return (y, x) if y and x else None


def _fei_settings(page: TiffPage) -> dict[str, dict[str, Any]]:
    """Sections of FEI's settings by name."""
    found = (page.tags.valueof(code) for code in _FEI_TEXT)
    return next((f for f in found if isinstance(f, dict)), {})


def _fei_sizes(page: TiffPage) -> Sizes | None:
    for section in ("Scan", "EScan", "Image"):
        settings = _fei_settings(page).get(section, {})
        y, x = settings.get("PixelHeight"), settings.get("PixelWidth")
        if _is_positive(y) and _is_positive(x):
            return y * 1e9, x * 1e9
    return None


def _fei_xml_sizes(page: TiffPage) -> Sizes | None:
    text = page.tags.valueof(_FEI_XML)
    if not text:
        return None
    try:
        root = ElementTree.fromstring(text if isinstance(text, bytes) else str(text).strip("\0 \n"))
    except ElementTree.ParseError:
        return None
    found = [root.find(f".//PixelSize/{axis}") for axis in ("Y", "X")]
    if any(f is None or not f.text for f in found):
        return None
    y, x = (float(f.text) * (nm_per(f.get("unit")) or 0.0) for f in found if f is not None and f.text)
    return (y, x) if y > 0 and x > 0 else None


def _fei_attributes(page: TiffPage) -> dict[str, Any]:
    fei = _fei_settings(page)
    detector = fei.get("Detectors", {}).get("Name")
    voltage = fei.get("Beam", {}).get("HV")
    dwell = fei.get("Scan", {}).get("Dwelltime") or fei.get("EScan", {}).get("Dwell")
    attrs: dict[str, Any] = {"detector": detector, "mode": mode_of(detector)} if isinstance(detector, str) else {}
    attrs["voltage"] = voltage / 1e3 if _is_positive(voltage) else None
    attrs["dwell_time"] = float(dwell) if _is_positive(dwell) else None
    return {key: value for key, value in attrs.items() if value is not None}


def _is_positive(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and value > 0
