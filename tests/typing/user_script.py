"""A user's script for the type checker, ``nox -s types``: names of the package that are loaded lazily have types."""

from collections.abc import Callable
from typing import assert_type

from matplotlib.figure import Figure

import stemkit


def script() -> None:
    image = stemkit.read("image.dm4")
    compare: Callable[..., Figure] = stemkit.plotting.compare
    denoiser = stemkit.SFINDenoiser(n_channels=32)
    assert_type(denoiser, stemkit.SFINDenoiser)
    assert_type(denoiser.n_channels, int | None)
    compare({"recorded": image}, stemkit.AtomDetector().fit_transform(image))
