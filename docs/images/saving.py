"""Pictures of the documentation as small PNG files."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

__all__ = ["save"]

#: Colours of a picture (chosen: no difference is seen in grey images with coloured lines).
N_COLORS = 96


def save(figure: plt.Figure, name: str, dpi: float) -> None:
    """Write a figure with a palette into the folder of this file."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=dpi)
        picture = Image.open(file).convert("RGB").quantize(N_COLORS, dither=Image.Dither.NONE)
    picture.save(Path(__file__).with_name(name), optimize=True)
