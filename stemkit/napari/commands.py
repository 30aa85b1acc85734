"""Commands of the plugin: napari makes their widgets from the signatures and adds the layers that they return.

They compute in a thread, so that the viewer can be used meanwhile. Layers named by strings are types of napari, which
is imported by napari alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from stemkit.napari.layers import Layer, as_image, columns_layer, image_layer

if TYPE_CHECKING:
    import napari.layers
    import napari.qt.threading
    import napari.types

__all__ = ["average", "detect", "enhance", "measure"]


def _in_thread(command: Callable[..., list[Layer]]) -> Callable[..., Any]:
    """Start a command in a thread; napari adds the layers when it has finished."""

    @wraps(command)
    def start(*arguments: Any, **options: Any) -> Any:
        from napari.qt.threading import create_worker

        return create_worker(command, *arguments, _start_thread=True, _progress={"desc": command.__name__}, **options)

    return start


@_in_thread
def enhance(
    image: napari.layers.Image, average_flips: bool = False
) -> napari.qt.threading.FunctionWorker[list[napari.types.LayerDataTuple]]:
    """Measure the noise of an image and enhance it with the network.

    Parameters
    ----------
    image : Image
        Layer of an image or a stack.
    average_flips : bool
        Average the results of mirror images: slower, slightly more accurate.
    """
    from stemkit import NoiseCalibrator, SFINDenoiser

    calibrated = NoiseCalibrator().fit_transform(as_image(image))
    enhanced: Any = SFINDenoiser(average_flips=average_flips).fit_transform(calibrated)
    return [image_layer(enhanced, f"{image.name} enhanced")]


@_in_thread
def detect(
    image: napari.layers.Image, significance: float = 2.5, elliptical: bool = False
) -> napari.qt.threading.FunctionWorker[list[napari.types.LayerDataTuple]]:
    """Measure the columns of an image; of an enhanced one, in its recorded pixels.

    Parameters
    ----------
    image : Image
    significance : float
        Least amplitude of a column in its standard deviations.
    elliptical : bool
        Fit elliptical columns.
    """
    from stemkit import AtomDetector

    pixels = as_image(image)
    table = AtomDetector(significance=significance, elliptical=elliptical).fit_transform(pixels)
    return [columns_layer(table, pixels, f"{image.name} columns")]


@_in_thread
def measure(
    columns: napari.layers.Points, image: napari.layers.Image, elliptical: bool = False
) -> napari.qt.threading.FunctionWorker[list[napari.types.LayerDataTuple]]:
    """Measure the columns of a layer again, after points were added, removed or moved by hand.

    Parameters
    ----------
    columns : Points
        Positions, which the fits start from.
    image : Image
    elliptical : bool
    """
    from stemkit import AtomDetector

    pixels = as_image(image)
    if pixels.ndim != 2 or columns.data.shape[1] != 2:
        raise ValueError("columns and image must be of one image, not of a stack: choose one with napari's slicing")
    detector = AtomDetector(elliptical=elliptical).fit(pixels)
    table = detector.measure(pixels, _in_pixels(columns, image))
    return [columns_layer(table, pixels, f"{image.name} columns, corrected")]


@_in_thread
def average(
    series: napari.layers.Image,
) -> napari.qt.threading.FunctionWorker[list[napari.types.LayerDataTuple]]:
    """Align the frames of a series and average them.

    Parameters
    ----------
    series : Image
        Layer with three dimensions.
    """
    from stemkit import SeriesAligner

    frames = as_image(series)
    if frames.ndim != 3:
        raise ValueError(f"series must be a layer of frames, but {series.name} is one image")
    averaged: Any = SeriesAligner().fit_transform(frames.rename({frames.dims[0]: "frame"}))
    return [image_layer(averaged, f"{series.name} average")]


def _in_pixels(columns: napari.layers.Points, image: napari.layers.Image) -> Any:
    """Positions of points in pixels of an image, by way of the viewer's coordinates."""
    import numpy as np

    return np.array([image.world_to_data(columns.data_to_world(place)) for place in columns.data])
