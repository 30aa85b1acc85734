"""Images and figures as text within a page."""

from __future__ import annotations

import base64
import io
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Picture", "figure_uri", "gray_levels", "packed", "picture", "thumbnail_uri"]

#: Longest edge of an image in a page, pixels: larger images are averaged (chosen: a page of at most 4 MB).
MAX_EDGE = 1024
#: Longest edge of a thumbnail, pixels (chosen).
THUMBNAIL_EDGE = 192
#: Fraction of the pixels that are displayed black, and white (chosen, as in stemkit.plotting).
CLIPPED_FRACTION = 0.001
#: Grey levels of an image; level 0 is left free for pixels that are not displayed.
N_GRAY_LEVELS = 255
#: Width of figures, pixels (chosen: that of the page on most screens, within 4 MB).
FIGURE_WIDTH = 1280
#: Fractions of that width, with the quality in WebP (100 is best), from the best to the smallest: a figure takes the
#: first that is below the limit (chosen: text and arrows over a noisy image are sharp in each).
ENCODINGS = ((1.0, 90), (1.0, 75), (1.0, 60), (0.8, 75), (0.8, 60), (0.65, 75), (0.65, 60))
#: Size of a figure, bytes (chosen: a page of 1024 x 1024 px with six figures has at most 4 MB).
MAX_FIGURE_BYTES = 180_000


@dataclass(frozen=True)
class Picture:
    """An image in grey levels, with the number of image pixels along the edge of each of its pixels."""

    levels: NDArray[np.uint8]
    binning: int

    @property
    def uri(self) -> str:
        """The picture in a ``data:`` address, with exact grey levels: PNG, or WebP where it is smaller."""
        image = Image.fromarray(self.levels)
        uri = _png_uri(image)
        if not features.check("webp"):
            return uri
        with io.BytesIO() as encoded:
            image.convert("RGB").save(encoded, format="webp", lossless=True)
            return min(uri, _uri("webp", encoded.getvalue()), key=len)


def picture(values: NDArray, limits: tuple[float, float] | None = None) -> Picture:
    """Average an image to at most 1024 pixels along its edges and convert it to the grey levels 1 to 255.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
        Pixels that are not finite are black.
    limits : (float, float), optional
        Values displayed black and white; by default, 0.1 % of the pixels are clipped at either end.
    """
    binning = math.ceil(max(values.shape) / MAX_EDGE)
    return Picture(gray_levels(_averaged(values, binning), limits), binning)


def gray_levels(values: NDArray, limits: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """Convert values to the grey levels 1 to 255."""
    finite = values[np.isfinite(values)]
    if limits is None:
        limits = tuple(np.quantile(finite, [CLIPPED_FRACTION, 1 - CLIPPED_FRACTION])) if finite.size else (0.0, 1.0)
    low, high = limits
    scaled = (np.nan_to_num(values, nan=low) - low) / (high - low if high > low else 1.0)
    return (1 + np.rint((N_GRAY_LEVELS - 1) * np.clip(scaled, 0, 1))).astype(np.uint8)


def figure_uri(figure: Figure) -> str:
    """A Matplotlib figure in a ``data:`` address: WebP, or JPEG where Pillow was built without it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=FIGURE_WIDTH / figure.get_figwidth(), bbox_inches="tight")
    drawn = Image.open(buffer).convert("RGB")
    kind = "webp" if features.check("webp") else "jpeg"
    for fraction, quality in ENCODINGS:
        encoded = io.BytesIO()
        size = round(fraction * drawn.width), round(fraction * drawn.height)
        shown = drawn if fraction == 1.0 else drawn.resize(size, Image.Resampling.LANCZOS)
        # subsampling is an option of JPEG alone: thin coloured lines keep their colours
        shown.save(encoded, format=kind, quality=quality, subsampling=0)
        if encoded.tell() <= MAX_FIGURE_BYTES:
            break
    return _uri(kind, encoded.getvalue())


def packed(text: str) -> str:
    """A text compressed by zlib, in base64, which the page's script ``unpack.js`` expands."""
    return base64.b64encode(zlib.compress(text.encode(), level=9)).decode()


def thumbnail_uri(values: NDArray) -> str:
    """A small picture of an image in a ``data:`` address."""
    edge = math.ceil(max(values.shape) / THUMBNAIL_EDGE)
    return _png_uri(Image.fromarray(gray_levels(_averaged(values, edge))))


def _averaged(values: NDArray, binning: int) -> NDArray[np.float64]:
    """Means of squares of pixels; rows and columns that fill no square are left out."""
    values = np.asarray(values, dtype=np.float64)
    n_y, n_x = (n // binning for n in values.shape)
    return values[: n_y * binning, : n_x * binning].reshape(n_y, binning, n_x, binning).mean(axis=(1, 3))


def _png_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return _uri("png", buffer.getvalue())


def _uri(kind: str, encoded: bytes) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(encoded).decode()
