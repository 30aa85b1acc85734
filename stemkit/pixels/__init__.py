"""Faulty pixels: hot and dead pixels, cosmic rays, missing rows, constant areas.

The resolution of an image is limited by the width of the probe: a pixel that differs from its neighbours by more than
the probe and the noise allow is a fault of the detector or of the readout.

- ``fault_search`` combines the steps: ``noise`` (as a function of the level), ``single`` (pixels and small clusters)
  and ``areas`` (rows, constant areas). ``interpolation`` replaces faulty pixels.
- ``filled_image`` is an image whose faulty pixels are replaced, without a copy of it.
- ``constants`` are those of the search.
"""

from stemkit.pixels.fault_search import PixelFaults, faulty_pixels, filled, find_pixel_faults

__all__ = ["PixelFaults", "faulty_pixels", "filled", "find_pixel_faults"]
