"""Constants of the search for faulty pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["CONSTANTS", "CUBIC_RESIDUAL_STD", "MEAN_DIFFERENCE", "MIN_LARGER_CUBIC"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the search for faulty pixels (tuned: on the simulated images of ``tests/test_pixels.py``)."""

    #: Sigma of the narrowest bright column, px (chosen: integration over a pixel alone has a sigma of 0.29 px).
    min_width: float = 0.75
    #: Sigma of the narrowest dark spot, such as the gap between columns of a dense lattice, px (tuned).
    min_dark_width: float = 0.55
    #: Excess of a faulty pixel over the upper limit of its intensity, standard deviations of the noise (tuned).
    min_excess: float = 7.0
    #: Increase of ``min_excess`` per unit of the tail of the noise beyond that of a normal distribution (tuned).
    excess_per_tail: float = 5.0
    #: Quantile of the absolute residuals, in standard deviations, that is the tail of the noise (chosen).
    tail_quantile: float = 0.998
    #: This quantile for a normal distribution, standard deviations (derived).
    normal_tail: float = 3.09
    #: Largest residual of the blocks from which the tail is measured, standard deviations (chosen).
    max_tail_residual: float = 7.0
    #: Allowance for the noise of the neighbours, standard deviations (tuned).
    neighbor_allowance: float = 1.5
    #: Lower limit of the standard deviation of the noise, fraction of the range of intensities (chosen).
    min_noise: float = 2e-3
    #: Quantiles that define the range of intensities (chosen).
    range_quantiles: tuple[float, float] = (0.01, 0.99)
    #: Number of rounds in which clusters of faulty pixels are removed from their corners inwards (chosen).
    n_rounds: int = 6
    #: Edge of the blocks in which the noise is measured, px (chosen).
    block_size: int = 8
    #: Edge of these blocks in an image with fewer than ``min_blocks``, px (chosen).
    small_block_size: int = 4
    #: Smallest number of blocks from which the noise is measured (chosen).
    min_blocks: int = 4
    #: Largest number of bins of the level (chosen).
    max_bins: int = 24
    #: Number of blocks per bin at least (chosen).
    min_blocks_per_bin: int = 16
    #: Number of blocks from which the tail is measured, about (chosen).
    n_tail_blocks: int = 512
    #: Edge of the smallest constant area, px (chosen).
    min_area_size: int = 7
    #: Length of the shortest constant run along a row, px (chosen).
    min_run_length: int = 48
    #: Number of pixels below which a constant area has the stricter limit ``min_small_area_contrast`` (chosen).
    max_small_area: int = 200
    #: Difference of a constant area from its surroundings, standard deviations of the noise (chosen).
    min_area_contrast: float = 1.5
    #: The same for a small area: at low dose, areas without electrons occur next to pixels with several (chosen).
    min_small_area_contrast: float = 3.0
    #: Difference of a constant area from its surroundings, in units of the variation of these (chosen).
    min_area_variation: float = 3.0
    #: Difference of a faulty row from both neighbours, in units of the median difference of rows (tuned).
    min_row_distance: float = 6.0
    #: Number of rows over which this median is taken (chosen).
    median_rows: int = 17
    #: Fraction of a row's pixels outside constant areas at least, for a comparison with its neighbours (chosen).
    min_valid_fraction: float = 0.2
    #: Number of rows that can be compared with their neighbours at least (chosen).
    min_rows: int = 8
    #: Largest fraction of the image in faulty rows and constant areas; above it none is reported (chosen).
    max_faulty_fraction: float = 0.9
    #: Widest gap that is filled by interpolation along an axis, px (chosen).
    max_gap: int = 4
    #: Shorter side of the smallest image that is searched, px (chosen).
    min_image_size: int = 12
    #: Number of pixels above which an image is searched in bands, which takes 70 bytes per pixel of a band (chosen).
    max_searched_pixels: int = 2**23
    #: Largest number of rows of a band, px (chosen); a band of wide images has fewer rows than others.
    max_band: int = 1024
    #: Smallest number of rows of a band, px (chosen).
    min_band: int = 256
    #: Rows on either side that are searched with a band, px (chosen: the margin exceeds the distance over which pixels
    #: and rows are compared).
    band_margin: int = 64


CONSTANTS = _Constants()
#: Mean absolute difference of two independent normal numbers, in standard deviations of one of them (derived).
MEAN_DIFFERENCE = 2 / math.sqrt(math.pi)
#: Standard deviation of a pixel minus the mean of the cubics along both axes, for noise of 1 (derived).
CUBIC_RESIDUAL_STD = math.sqrt(1 + 4 / 9 + 4 / 144)
#: Least excess of a faulty pixel over the larger of the two cubics, in units of its excess over their mean (chosen).
MIN_LARGER_CUBIC = 0.6
