"""Words, colours and markers for the quality flags of columns, in all figures and pages."""

from __future__ import annotations

__all__ = ["FLAG_STYLES", "FLAG_WORDS", "GOOD_STYLE"]

#: Members of :class:`stemkit.detection.Quality` in words, which follow "columns".
FLAG_WORDS = {
    "EDGE": "near the border",
    "FAILED": "with a failed fit",
    "ODD_SHAPE": "of unusual shape",
    "WIDTH_FIXED": "with a fixed width",
    "BLENDED": "blended with a neighbour",
    "FAINT": "faint",
    "SATURATED": "saturated",
    "FAULTY_PIXELS": "on faulty pixels",
    "GUIDED": "with a constrained position",
}
#: Colour and Matplotlib marker of the columns by flag, the most serious first; the colours can be distinguished with
#: the common colour vision deficiencies (Okabe and Ito 2008).
FLAG_STYLES = {
    "FAILED": ("#d55e00", "X"),
    "FAULTY_PIXELS": ("#d55e00", "P"),
    "SATURATED": ("#f0e442", "p"),
    "ODD_SHAPE": ("#e69f00", "s"),
    "BLENDED": ("#cc79a7", "D"),
    "GUIDED": ("#009e73", "v"),
    "FAINT": ("#f0e442", "^"),
    "WIDTH_FIXED": ("#e69f00", "h"),
    "EDGE": ("#bbbbbb", "o"),
}
#: Colour and marker of columns without a flag.
GOOD_STYLE = ("#56b4e9", "o")
