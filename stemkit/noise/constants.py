"""Constants that the calibration of noise shares."""

from __future__ import annotations

__all__ = ["TINY"]

#: Smallest divisor, against division by 0 (chosen: below all values in use, and a normal number whose inverse is
#: finite).
TINY = 1e-300
