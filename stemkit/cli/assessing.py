"""Assessment of enhanced images in one line, and their uncertainty."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from stemkit.cli.batch import Job
from stemkit.cli.messages import about

if TYPE_CHECKING:
    import xarray as xr

    from stemkit import SFINDenoiser

__all__ = ["assess_frames", "uncertainty_of"]


def assess_frames(job: Job, recorded: xr.DataArray, enhanced: xr.DataArray) -> None:
    """Print one line about an enhanced image or stack, and warn of images that should not be believed."""
    import numpy as np

    from stemkit.images import split
    from stemkit.trust.assessment import MIN_SIZE, assess

    if min(recorded.shape[-2:]) < MIN_SIZE:
        return
    first, second = ([image] if image.ndim == 2 else split(image) for image in (recorded, enhanced))
    found = [
        assess(one, other)
        for one, other in zip(first, second, strict=True)
        # a constant image has nothing to assess
        if np.ptp(other.values) and np.ptp(one.values - other.values)
    ]
    if not found:
        return
    doubtful = [(i, one) for i, one in enumerate(found) if one.warnings]
    index, worst = doubtful[0] if doubtful else (0, found[0])
    many = (
        f"{len(found) - len(doubtful)} of {len(found)} images without doubts; image {index}: " if len(found) > 1 else ""
    )
    job.progress.note(f"stemkit: {about(job.path, many + str(worst))}")
    for text in worst.warnings:
        if text not in str(worst):  # the printed line contains it
            warnings.warn(text, UserWarning, stacklevel=2)


def uncertainty_of(image: xr.DataArray, denoiser: SFINDenoiser) -> xr.DataArray:
    """Uncertainty of each pixel of an enhanced image or stack, with the dims and coordinates of the image."""
    import numpy as np

    from stemkit.images import split
    from stemkit.trust import network_uncertainty

    maps = [network_uncertainty(one, denoiser) for one in ([image] if image.ndim == 2 else split(image))]
    values = maps[0].values if image.ndim == 2 else np.stack([one.values for one in maps])
    out = image.copy(data=values)
    out.attrs = {key: value for key, value in image.attrs.items() if key != "noise"} | maps[0].attrs
    return out
