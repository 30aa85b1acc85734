"""Noise measured from the image itself."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from stemkit.images import (
    Images,
    digest,
    float_dtype,
    join,
    measured_image,
    pixel_sizes,
    resolve_mode,
    split,
    warn_if_small,
)
from stemkit.noise.figures import draw_calibration
from stemkit.noise.measuring import measure, own_scale
from stemkit.noise.model import BackgroundNoise, Detector, NoiseModel, PointwiseNoise, ScanNoise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NoiseCalibrator"]


class NoiseCalibrator(TransformerMixin, BaseEstimator):
    """Measure background, scan noise and pointwise noise from images, without any other data.

    The columns are fitted, and every row is registered to them: that is its displacement. The spectrum of the
    displacements is divided into jitter, drift and hum. What they leave differs from row to
    row, and a fourth difference across rows takes away whatever of the specimen they did not hold: what is correlated
    along the row at long range is streaks, what is not is pointwise noise, whose variance is a straight line in the
    signal. Between the columns, what rows have in common is the background.

    Parameters
    ----------
    mode : {"haadf", "bf"} or None, default=None
        Bright or dark columns; None asks the image, and infers it where the image does not say.

    Attributes
    ----------
    noise_model_ : NoiseModel
        Mean over the images.
    noise_model_std_ : dict
        Standard deviation of each number of ``noise_model_``, keys such as ``"pointwise.readout"``: how far it may be
        from the noise of the very images that were fitted, NaN where that is not known. For several images it is at
        least what their differences say.
    diagnostics_ : list of dict
        Per image: ``spacing`` (px or None), ``has_columns``, ``part`` (slices of the rows and columns that were looked
        at), ``scan`` and ``pointwise`` (the curves of the paper's figure 3, :class:`~stemkit.noise.figure3.Curve`),
        ``rows``, ``registration``, ``across`` and ``background`` (the curves behind the numbers; ``registration`` is of
        the displacements along x, ``across`` of those along y), ``faults`` (a sentence for
        each thing that is wrong with the image and not in the model: ``"hot"``, ``"dead"``, ``"rows"``,
        ``"constant"``, ``"saturation"``, ``"flyback"``, ``"hum"``, ``"direction"``), and ``faulty`` (the pixels
        ``(n_y, n_x)`` that are no measurement and have no weight, see :func:`stemkit.pixels.find_pixel_faults`).
    n_images_ : int
        Number of images seen.

    Raises
    ------
    ValueError, TypeError
        From ``fit`` and ``transform``, for anything that is not an image.

    See Also
    --------
    stemkit.NoiseModel : what the numbers mean, and how they draw noise.
    stemkit.RowAligner : takes the jitter out of the image.

    Notes
    -----
    Of images larger than 512 x 512 px a part of about as many pixels is looked at, in whole rows up to 2048 px; the
    numbers are those of the image, and their errors say so. Drift, hum and short streaks that are not significant are
    0, with the error that they would have. Drift is measured at frequencies above one cycle in three lattice vectors:
    below, strain of the specimen is not distinguished from it. Without a lattice of columns (``has_columns`` is False)
    the contrast is the image's range of intensities, the jitter is what moves with the gradient of the smoothed image,
    and no background is told from the specimen.

    References
    ----------
    .. [1] Li, Wu, Shao, Zhang, Fu, "Noise Calibration and Spatial-Frequency Interactive Network for STEM Image
       Enhancement", CVPR 2025, https://arxiv.org/abs/2504.02555

    Examples
    --------
    >>> from stemkit import NoiseCalibrator, STEMSynthesizer
    >>> images = STEMSynthesizer(random_state=0).sample(1)["noisy"]
    >>> calibrator = NoiseCalibrator().fit(images)
    >>> calibrator.noise_model_.mode
    'haadf'
    """

    def __init__(self, *, mode: str | None = None):
        self.mode = mode

    def fit(self, X: Images, y: object = None) -> NoiseCalibrator:
        """Measure the noise of the images; their fractions are averaged.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            ``(n_y, n_x)`` or ``(n_images, n_y, n_x)``.
        y : ignored

        Returns
        -------
        self
        """
        images = split(X)
        for image in images:
            warn_if_small(image)
        modes = [resolve_mode(image, self.mode) for image in images]
        if len(set(modes)) > 1:
            raise ValueError(f"X must hold images of one mode, but they are {sorted(set(modes))}: fit each on its own")
        recorded = [measured_image(image).values for image in images]
        results = [measure(values, mode) for values, mode in zip(recorded, modes, strict=True)]
        # so that fit_transform does not measure each image twice
        self._scales = {
            digest(values): (model.contrast, model.level)
            for values, (model, _, _) in zip(recorded, results, strict=True)
        }
        self._models = [model for model, _, _ in results]
        self.noise_model_ = _mean_model(self._models)
        self.noise_model_std_ = _mean_std(self._models, [std for _, std, _ in results])
        self.diagnostics_ = [diagnostics for _, _, diagnostics in results]
        self.n_images_ = len(images)
        return self

    def transform(self, X: Images) -> Images:
        """The images with the calibrated noise in ``attrs["noise"]``; a plain ndarray comes back as it is.

        The fractions are the fitted ones; contrast and level are each image's own.
        """
        check_is_fitted(self, "noise_model_")
        return join([self._labelled(image) for image in split(X)], X)

    def plot(self, image: int = 0) -> Figure:
        """Draw figure 3 of the paper for one of the fitted images, and the curves that its numbers come from.

        Parameters
        ----------
        image : int
            Which of the fitted images.

        Returns
        -------
        matplotlib Figure
        """
        check_is_fitted(self, "noise_model_")
        return draw_calibration(self._models[image], self.diagnostics_[image])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _labelled(self, image: xr.DataArray) -> xr.DataArray:
        mode = self.mode or image.attrs.get("mode") or self.noise_model_.mode
        if mode != self.noise_model_.mode:
            raise ValueError(
                f"NoiseCalibrator was fitted on {self.noise_model_.mode} images, but this one is {mode}: fit it on "
                "images of this mode"
            )
        recorded = measured_image(image).values
        contrast, level = self._scales.get(digest(recorded)) or own_scale(recorded, mode)
        model = replace(self.noise_model_, contrast=contrast, level=level, mode=mode)
        sizes = pixel_sizes(image)
        described = {"pixel_size": None if sizes is None else sizes[1], **model.to_dict()}
        out = image.copy(data=image.values.astype(float_dtype(image.dtype), copy=True))
        out.attrs = {**image.attrs, "mode": mode, "noise": json.dumps(described)}
        return out


# --- several -----------------------------------------------------------------------------------------------------


def _number(model: NoiseModel, key: str) -> float:
    value: Any = model
    for part in key.split("."):
        value = getattr(value, part)
    return float(value)


#: Lengths and periods along with the amplitudes that they are of: images without any of these do not count.
BELONGING = {
    "drift_rows": ("drift", "drift_y"),
    "hum_period": ("hum", "hum_y"),
    "short_length": ("short_amplitude",),
}


def _mean_std(models: list[NoiseModel], stds: list[dict[str, float]]) -> dict[str, float]:
    """Of the mean over images: from what each states, or from how they differ, whichever is larger."""
    result = {}
    for key in stds[0]:
        chosen = _having(models, *key.split(".")) if "." in key else models
        within = np.array([std[key] for model, std in zip(models, stds, strict=True) if model in chosen])
        values, n = np.array([_number(model, key) for model in chosen]), len(chosen)
        stated = float(np.sqrt((within**2).sum()) / n)
        between = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 and np.isfinite(values).all() else 0.0
        result[key] = float(np.fmax(stated, between)) if n > 1 else stated
    return result


def _having(models: list[NoiseModel], part: str, name: str) -> list[NoiseModel]:
    """The models that have what a length or a period is of; all where none has."""
    amplitudes = BELONGING.get(name, ())
    return [m for m in models if any(getattr(getattr(m, part), amplitude) for amplitude in amplitudes)] or models


def _mean_model(models: list[NoiseModel]) -> NoiseModel:
    if len(models) == 1:
        return models[0]

    def mean(part: str, name: str) -> float:
        values = np.array([_number(m, f"{part}.{name}") for m in _having(models, part, name)])
        # periods of different images are not those of one hum
        return float(np.median(values) if np.isinf(values).any() or name == "hum_period" else values.mean())

    counted = sum(m.pointwise.kind == "poisson" for m in models) > len(models) / 2
    return NoiseModel(
        contrast=float(np.median([m.contrast for m in models])),
        level=float(np.median([m.level for m in models])),
        mode=models[0].mode,
        background=BackgroundNoise(*(mean("background", k) for k in ("amplitude", "length"))),
        scan=ScanNoise(**{f.name: mean("scan", f.name) for f in fields(ScanNoise)}),
        pointwise=PointwiseNoise(
            mean("pointwise", "readout"),
            mean("pointwise", "gain"),
            mean("pointwise", "shape"),
            mean("pointwise", "correlation_x"),
            "poisson" if counted else "tukey",
        ),
        detector=models[0].detector if all(m.detector == models[0].detector for m in models) else Detector(),
    )
