"""Calibration and attributes in the tags of TIFF files: of FEI, OME, DigitalMicrograph and ImageJ."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeGuard
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from stemkit.io.attributes import mode_of
from stemkit.io.calibration import Sizes, pixel_sizes_of, seconds_per
from stemkit.io.signals import degrees, positive_or_none
from stemkit.io.units import is_unstated, nm_per
from stemkit.parameters import is_number

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

__all__ = [
    "DESCRIPTION",
    "calibration",
    "description",
    "dm_tags",
    "fei_attributes",
    "frame_times",
    "json_entry",
    "ome_pixels",
]


#: Larger pixels in a unit of print are a resolution for printing, such as 72 per inch, nm (chosen).
_PRINT_PIXEL_SIZE = 1000.0
#: Units of a resolution for printing.
_PRINT_UNITS = ("inch", "in", "inches", "cm", "mm")
#: Tags of FEI with settings as text, in two versions.
_FEI_TEXT = (34680, 34682)
#: Tag of FEI with settings as XML.
_FEI_XML = 34683
#: Tags of DigitalMicrograph with the units along y and x.
_DM_UNITS = (65004, 65003)
#: Tags of DigitalMicrograph with the origins along y and x.
_DM_ORIGINS = (65007, 65006)
#: Tags of DigitalMicrograph with the scales along y and x.
_DM_SCALES = (65010, 65009)
#: Tag of the description (TIFF revision 6.0).
DESCRIPTION = 270
#: Tags of the resolutions along y and x (as before).
_RESOLUTIONS = (283, 282)
#: Tag of the unit of the resolutions (as before).
_RESOLUTION_UNIT = 296
#: Largest XML that is parsed, characters (chosen).
_MAX_XML_LENGTH = 2**24


def description(tif: TiffFile) -> dict[str, str]:
    """The ``key=value`` lines of the first page's descriptions."""
    texts = tif.pages[0].tags.getall(DESCRIPTION) or []  # type: ignore[union-attr]
    lines = [line.partition("=") for text in texts for line in str(text.value).splitlines()]
    return {key.strip(): value.strip() for key, equals, value in lines if equals}


def json_entry(described: dict[str, str], key: str, kind: type) -> Any:
    """Value of this type from the JSON of a key, empty without one."""
    try:
        value = json.loads(described[key]) if key in described else kind()
    except (ValueError, RecursionError):
        value = kind()
    return value if isinstance(value, kind) else kind()


def calibration(page: TiffPage, described: dict[str, str], ome: ElementTree.Element | None) -> tuple[Sizes | None, str]:
    """Pixel sizes in nm from the most specific source, and the text of a warning (empty: none)."""
    sizes = _fei_sizes(page) or _fei_xml_sizes(page)
    if sizes is not None:
        return sizes, ""
    for scales, units in (_ome_scales(ome), _dm_scales(page)):
        if all(scales):
            return pixel_sizes_of(scales, units)
    return _resolution_sizes(page, described)


def _resolution_sizes(page: TiffPage, described: dict[str, str]) -> tuple[Sizes | None, str]:
    """Pixel sizes from the resolution and the unit in ImageJ's description, or else in the tag of the unit."""
    resolution = [_resolution(page, code) for code in _RESOLUTIONS]
    if not all(resolution):
        return None, ""
    scales = [1 / r for r in resolution]
    x_unit = described.get("unit")
    if x_unit is not None and not is_unstated(x_unit):
        return _unless_for_printing(scales, (described.get("yunit") or x_unit, x_unit))
    unit = {2: "inch", 3: "cm"}.get(_integer(page.tags.valueof(_RESOLUTION_UNIT)))
    return (None, "") if unit is None else _unless_for_printing(scales, (unit, unit))


def _unless_for_printing(scales: list[float], units: tuple[str, str]) -> tuple[Sizes | None, str]:
    lengths = [nm_per(unit) for unit in units]
    printed = units[1].lower() in _PRINT_UNITS
    if printed and max(s * f for s, f in zip(scales, lengths, strict=True) if f) > _PRINT_PIXEL_SIZE:
        return None, ""
    return pixel_sizes_of(scales, units)


def _resolution(page: TiffPage, code: int) -> float:
    value = page.tags.valueof(code)
    return 0.0 if not isinstance(value, tuple) or len(value) < 2 or not value[1] else value[0] / value[1]


def _integer(value: object) -> int:
    return int(value) if isinstance(value, int) else 0


# --- OME ---------------------------------------------------------------------------------------------------------


def ome_pixels(tif: TiffFile) -> ElementTree.Element | None:
    """The element ``Pixels`` of the first image in the OME-XML of a file, None without one."""
    text = str(tif.pages[0].tags.valueof(DESCRIPTION) or "")  # type: ignore[union-attr]
    root = _xml(text) if "<OME" in text[:4096] else None
    return None if root is None else next((e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"), None)


def _ome_scales(ome: ElementTree.Element | None) -> tuple[list[float | None], list[str]]:
    """Scales and units along y and x; the unit of OME's schema is the micrometre unless the file states another."""
    if ome is None:
        return [None, None], ["", ""]
    scales = [positive_or_none(ome.get(f"PhysicalSize{axis}")) for axis in "YX"]
    return scales, [ome.get(f"PhysicalSize{axis}Unit", "µm") for axis in "YX"]


def frame_times(ome: ElementTree.Element | None, described: dict[str, str], frames: int) -> NDArray | None:
    """Times of frames in s, from the increment that OME or ImageJ have; None without one."""
    if ome is not None:
        step = positive_or_none(ome.get("TimeIncrement"))
        unit = ome.get("TimeIncrementUnit", "s")
    else:
        step = positive_or_none(described.get("finterval"))
        unit = described.get("tunit", "s")
    seconds = seconds_per(unit)
    return None if step is None or seconds is None else np.arange(frames) * step * seconds


def _xml(text: str | bytes) -> ElementTree.Element | None:
    """The parsed XML; None if it is damaged, too long, or declares entities, which could expand without limit."""
    marker = b"<!ENTITY" if isinstance(text, bytes) else "<!ENTITY"
    if len(text) > _MAX_XML_LENGTH or marker in text:  # type: ignore[operator]
        return None
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError):
        return None


# --- DigitalMicrograph and FEI -----------------------------------------------------------------------------------


def _dm_scales(page: TiffPage) -> tuple[list[float | None], list[object]]:
    scales = [page.tags.valueof(code) for code in _DM_SCALES]
    return [float(s) if _is_scale(s) else None for s in scales], [page.tags.valueof(code) for code in _DM_UNITS]


def dm_tags(sizes: Sizes) -> list[tuple[int, str, int, Any, bool]]:
    """DigitalMicrograph's tags for a height and a width in nm: HyperSpy has the unit from these, not from ImageJ's."""
    units = [(code, "s", 0, "nm", True) for code in _DM_UNITS]
    origins = [(code, "d", 1, 0.0, True) for code in _DM_ORIGINS]
    scales = [(code, "d", 1, float(size), True) for code, size in zip(_DM_SCALES, sizes, strict=True)]
    return sorted([*units, *origins, *scales])


def _fei_settings(page: TiffPage) -> dict[str, dict[str, Any]]:
    """Sections of FEI's settings by name."""
    found = (page.tags.valueof(code) for code in _FEI_TEXT)
    sections = next((f for f in found if isinstance(f, dict)), {})
    return {name: section for name, section in sections.items() if isinstance(section, dict)}


def _fei_sizes(page: TiffPage) -> Sizes | None:
    for section in ("Scan", "EScan", "Image"):
        settings = _fei_settings(page).get(section, {})
        y, x = settings.get("PixelHeight"), settings.get("PixelWidth")
        if _is_positive(y) and _is_positive(x):
            return y * 1e9, x * 1e9
    return None


def _fei_xml_sizes(page: TiffPage) -> Sizes | None:
    text = page.tags.valueof(_FEI_XML)
    root = _xml(text if isinstance(text, bytes) else str(text).strip("\0 \n")) if text else None
    if root is None:
        return None
    found = [root.find(f".//PixelSize/{axis}") for axis in ("Y", "X")]
    if any(f is None or not f.text for f in found):
        return None
    y, x = ((positive_or_none(f.text) or 0.0) * (nm_per(f.get("unit")) or 0.0) for f in found if f is not None)
    return (y, x) if y > 0 and x > 0 else None


def fei_attributes(page: TiffPage) -> dict[str, Any]:
    """Detector, mode, voltage (kV), dwell time (s) and scan angle (degrees) from FEI's settings."""
    fei = _fei_settings(page)
    detector = fei.get("Detectors", {}).get("Name")
    voltage = fei.get("Beam", {}).get("HV")
    dwell = fei.get("Scan", {}).get("Dwelltime") or fei.get("EScan", {}).get("Dwell")
    attrs: dict[str, Any] = {"detector": detector, "mode": mode_of(detector)} if isinstance(detector, str) else {}
    attrs["voltage"] = voltage / 1e3 if _is_positive(voltage) else None
    attrs["dwell_time"] = float(dwell) if _is_positive(dwell) else None
    attrs["scan_angle"] = degrees(fei.get("Beam", {}).get("ScanRotation"), radians=True)
    return {key: value for key, value in attrs.items() if value is not None}


def _is_scale(value: object) -> TypeGuard[float]:
    """A number by which pixels can be scaled; a negative one inverts the axis."""
    return is_number(value) and bool(np.isfinite(value)) and value != 0  # type: ignore[call-overload]


def _is_positive(value: object) -> TypeGuard[float]:
    return _is_scale(value) and value > 0
