"""Images as DataArrays with pixel centres in nm: validation, containers, pixel size and mode.

An image is an :class:`xarray.DataArray` with dims ``("y", "x")``, a stack has ``("image", "y", "x")``. The
coordinates ``x`` and ``y`` are pixel centres in nm; an uncalibrated image has none. Estimators also accept plain
arrays and lists of images of different sizes: :func:`split` converts each of them to a list of DataArrays, and
:func:`join` converts results to the container of the input.

- ``checks`` validates images, ``containers`` converts stacks and lists, ``lazy`` handles dask arrays.
- ``pixel_size``, ``mode``, ``intensities`` and ``provenance`` are the properties of an image, ``accessor`` its
  ``.stem``.
"""

from stemkit.images.accessor import StemAccessor
from stemkit.images.containers import join, single_image, split
from stemkit.images.intensities import intensity_scale
from stemkit.images.provenance import recorded_image

__all__ = ["StemAccessor", "intensity_scale", "join", "recorded_image", "single_image", "split"]
