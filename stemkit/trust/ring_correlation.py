"""Fourier ring correlation of two recordings of the same area."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from stemkit.images.containers import Images, split
from stemkit.images.pixel_size import pixel_sizes, same_pixel_sizes
from stemkit.trust.rings import THRESHOLDS, Rings, resolution, threshold_curve

__all__ = ["RingCorrelation", "fourier_ring_correlation"]


@dataclass(frozen=True, eq=False)
class RingCorrelation:
    """Correlation of two images by spatial frequency, and the resolution that follows from it.

    Attributes
    ----------
    table : DataFrame
        One row per ring: ``frequency`` (per nm, or per px without a pixel size), ``correlation`` (NaN where a ring has
        too few coefficients), the thresholds ``half-bit`` and ``1/7``, and ``n_independent``, the number of independent
        coefficients.
    resolution : dict of str to float
        Period at which the correlation falls below the threshold ``"half-bit"`` and ``"1/7"``; NaN if it never exceeds
        it.
    unit : {"nm", "px"}
    """

    table: pd.DataFrame
    resolution: dict[str, float]
    unit: str

    def __str__(self) -> str:
        found = ", ".join(f"{value:.3g} {self.unit} ({name})" for name, value in self.resolution.items())
        return f"resolution {found}"

    def _repr_html_(self) -> str:
        return f"<p>{self}</p>{self.table.to_html(index=False, max_rows=10, float_format='{:.4g}'.format)}"


def fourier_ring_correlation(first: Images, second: Images | None = None) -> RingCorrelation:
    """Fourier ring correlation of two images of the same area with independent noise.

    Parameters
    ----------
    first : DataArray or ndarray
        An image ``(n_y, n_x)``. Without `second`, aligned frames ``(n_frames, n_y, n_x)``, whose even and odd ones are
        averaged.
    second : DataArray or ndarray of shape (n_y, n_x), optional
        Another image of the same area, aligned with the first.

    Returns
    -------
    RingCorrelation

    Raises
    ------
    ValueError
        If the images differ in shape or pixel size, or there are fewer than two.

    Notes
    -----
    With the Fourier coefficients F and G of the images without their means, in a Hann window, the correlation in a ring
    of spatial frequencies is ``sum Re(F G*) / sqrt(sum |F|^2 sum |G|^2)`` [1]_. The resolution is the period of the
    last crossing of a threshold: half a bit of information per coefficient of the mean of the two images [2]_, or 1/7.

    It cannot show whether two *enhanced* images are right: a network adds the same expectations to both, so that they
    correlate without any signal. Compare recorded frames, or one enhanced frame with another recorded one.

    References
    ----------
    .. [1] W. O. Saxton and W. Baumeister, J. Microsc. 127, 127 (1982),
       https://doi.org/10.1111/j.1365-2818.1982.tb00405.x
    .. [2] M. van Heel and M. Schatz, J. Struct. Biol. 151, 250 (2005), https://doi.org/10.1016/j.jsb.2005.05.009

    Examples
    --------
    >>> import stemkit
    >>> from stemkit import NoiseModel, PointwiseNoise, STEMSynthesizer
    >>> synthesizer = STEMSynthesizer(arrangements=("lattice",), shape=(128, 128), random_state=0)
    >>> true_image = synthesizer.sample(1)["enhance"][0]
    >>> model = NoiseModel(contrast=float(true_image.max() - true_image.min()), pointwise=PointwiseNoise(readout=0.1))
    >>> frames = [model.apply(true_image, random_state=seed) for seed in (1, 2)]
    >>> found = stemkit.fourier_ring_correlation(*frames)
    >>> 2 * true_image.stem.pixel_size <= found.resolution["half-bit"] < 0.3
    True
    """
    images = split(first, name="first")
    if second is not None:
        images += split(second, name="second")
        if len(images) != 2:
            raise ValueError(
                f"first and second must be one image each, but are {len(images)} together: give the frames of a series "
                "as first alone"
            )
    if len(images) < 2:
        raise ValueError("first must hold at least 2 frames where second is not given, but holds 1: give second")
    shapes, sizes = {image.shape for image in images}, [pixel_sizes(image) for image in images]
    if len(shapes) > 1:
        raise ValueError(f"the images must have one shape, but have {sorted(shapes)}: crop them to their common area")
    if not all(same_pixel_sizes(size, sizes[0]) for size in sizes):
        raise ValueError(
            f"the images must have one pixel size, but have {sorted(set(map(str, sizes)))} nm: set it with "
            "stemkit.calibrated"
        )
    values = [image.values.astype(np.float64) for image in images]
    n_y, n_x = images[0].shape
    rings = Rings((n_y, n_x), sizes[0] or (1.0, 1.0))
    halves = (rings.transform(np.mean(values[start::2], axis=0)) for start in (0, 1))
    correlation = rings.correlation(*halves)
    limits = {name: threshold_curve(rings.n_independent, name) for name in THRESHOLDS}
    table = pd.DataFrame(
        {"frequency": rings.frequency, "correlation": correlation, **limits, "n_independent": rings.n_independent}
    )
    resolved = {name: resolution(rings.frequency, correlation, limit) for name, limit in limits.items()}
    return RingCorrelation(table, resolved, "px" if sizes[0] is None else "nm")
