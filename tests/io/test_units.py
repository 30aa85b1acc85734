import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemkit.io.units import is_reciprocal, is_unstated, nm_per


@pytest.mark.parametrize(
    ("factor", "spellings"),
    [
        (1.0, ["nm", "NM", " nm ", "[nm]", "n_m", "[n_m]", "nanometer", "nanometres", b"nm"]),
        (1.0, ["nm/px", "nm / pixel", "nm per pixel", "nm/pixels", "nm px^-1", "nanometer (nm)", "Nanometres [nm]"]),
        (0.1, ["\u00c5/px", "Angstrom (A)", "angstrom per pixel"]),
        (1e-6, ["fm", "femtometer"]),
        (0.1, ["\u00c5", "\u212b", "A\u030a", "A", "Angstrom", "angstroms", "Ang"]),
        (1e-3, ["pm", "picometer"]),
        (1e3, ["\u00b5m", "\u03bcm", r"\u00B5m", "um", "micron", "Microns", "micrometer"]),
        (1e6, ["mm"]),
        (1e7, ["cm"]),
        (1e9, ["m", "meters", "metre"]),
        (25.4e6, ["inch", "inches"]),
    ],
)
def test_spellings(factor, spellings):
    assert [nm_per(s) for s in spellings] == [factor] * len(spellings)


@pytest.mark.parametrize(
    "unit",
    [None, "", "pixel", "px", "<undefined>", "s", "eV", "1/nm", "counts", "nm (pm)", "1/px", "/px"],
)
def test_no_length(unit):
    assert nm_per(unit) is None


@pytest.mark.parametrize(
    "unit",
    ["ms", "as", "fs", "ps", "ns", "us", "\u00b5s", "cms", "nms", "mms", "ins", "nm.s"],
)
def test_abbreviations_have_no_plural(unit):
    assert nm_per(unit) is None


@pytest.mark.parametrize("unit", ["1/nm", "1 / nm", "nm^-1", "nm\u207b\u00b9", "1/\u00c5", "\u00c5^-1", "mrad", "deg"])
def test_reciprocal(unit):
    assert is_reciprocal(unit)


@pytest.mark.parametrize("unit", ["nm", "\u00c5", "", None, "pixel", "s"])
def test_not_reciprocal(unit):
    assert not is_reciprocal(unit)


@pytest.mark.parametrize("unit", [None, "", "pixel", "Pixels", "<undefined>", "None"])
def test_unstated(unit):
    assert is_unstated(unit)


@pytest.mark.slow
@given(st.text(max_size=12))
def test_any_text_has_one_meaning_at_most(unit):
    assert (nm_per(unit) is not None) + is_unstated(unit) + is_reciprocal(unit) <= 1
