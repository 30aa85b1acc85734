"""NoiseCalibrator: the noise model measured from the images themselves."""

from __future__ import annotations

from dataclasses import fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Self

import numpy as np
import xarray as xr
from sklearn.utils.validation import check_is_fitted

from stemkit.estimators import ImageTransformer, image_by_image, loaded
from stemkit.images.containers import Images, float_dtype, join, split
from stemkit.images.mode import resolve_mode
from stemkit.images.provenance import check_noise_attr, digest, noise_attr, recorded_image, was_averaged
from stemkit.noise.image_calibration import calibrate_image, contrast_and_level
from stemkit.noise.model import BackgroundNoise, Digitization, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.noise.plots import plot_calibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NoiseCalibrator"]


class NoiseCalibrator(ImageTransformer):
    """Measure background, scan noise and pointwise noise from images, without any other data.

    The columns are fitted, and every row is registered to them, which gives its displacement. The spectrum of the
    displacements is divided into jitter, drift and hum. The residual of the columns is differentiated four times across
    rows, so that the specimen cancels: noise that is correlated along the row at long range is streaks, the rest is
    pointwise noise, whose variance is a straight line in the signal. The background is measured between the columns
    from the covariance of different rows.

    Parameters
    ----------
    mode : {"haadf", "bf"} or None, default=None
        Bright or dark columns; None: that of the image (``attrs["mode"]``), or inferred from it.

    Attributes
    ----------
    noise_model_ : NoiseModel
        Mean over the images. Amplitudes are fractions of the contrast; contrast and level are medians.
    noise_model_std_ : dict
        Standard deviation of each number of ``noise_model_``, by keys such as ``"pointwise.readout"``, in its unit: of
        its difference from the noise realised in the fitted images, NaN where it is not known. For several images it is
        at least the standard error of their mean.
    diagnostics_ : list of dict
        Per image:

        - ``spacing`` : shortest distance of columns, px, or None
        - ``has_columns`` : whether a lattice of columns was found
        - ``part`` : slices of the rows and columns of pixels that were used
        - ``components`` : :class:`~stemkit.noise.components.NoiseComponents`, variance against signal and covariance
          along the row
        - ``displacement_x``, ``displacement_y`` : displacements of the beam along x and y with their spectra, or None
        - ``background`` : covariance of different rows against their distance
        - ``scan``, ``pointwise`` : curves of figure 3 of the paper,
          :class:`~stemkit.noise.filter_residuals.ResidualCurve`
        - ``faults`` : a sentence for each fault of the image that is not in the model: ``"hot"``, ``"dead"``,
          ``"rows"``, ``"constant"``, ``"saturation"``, ``"flyback"``, ``"hum"``, ``"direction"``
        - ``faulty`` : mask ``(n_y, n_x)`` of the faulty pixels, which have no weight, see
          :func:`stemkit.pixels.find_pixel_faults`
    n_images_ : int
        Number of fitted images.

    Raises
    ------
    ValueError, TypeError
        From ``fit`` and ``transform``, for anything that is not an image, and for images of different modes.

    Warns
    -----
    UserWarning
        If an image is smaller than 32 px, or its mode is inferred.

    See Also
    --------
    stemkit.NoiseModel : the noise model, and drawing its noise.
    stemkit.RowAligner : removes the jitter from the image.

    Notes
    -----
    In images larger than 512 x 512 px a part of about as many pixels is used, in whole rows up to 2048 px; the numbers
    describe the whole image, and their errors include the difference. Drift, hum and short streaks that are not
    significant are 0, with the error that they would have. Drift is measured at frequencies above one cycle in three
    lattice vectors: below, it is not distinguished from strain of the specimen. Without a lattice of columns
    (``has_columns`` is False) the contrast is the image's range of intensities, the jitter is estimated from the
    gradient of the smoothed image, and the background is not measured.

    An average of frames keeps the noise model that :class:`~stemkit.SeriesAligner` has attached: pointwise noise and
    displacements are measured on the frames themselves.

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

    def fit(self, X: Images, y: object = None) -> Self:
        """Measure the noise of each image; their numbers are averaged.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            ``(n_y, n_x)`` or ``(n_images, n_y, n_x)``. Of enhanced images the recorded pixels are used.
        y : ignored

        Returns
        -------
        self
        """
        self._check_parameters()
        images = self._validated(X)
        modes, results, self._models = list[str](), [], list[NoiseModel]()
        # so that fit_transform does not measure each image twice
        self._scales = dict[str, tuple[float, float]]()
        for image in map(loaded, images):
            modes.append(resolve_mode(image, self.mode))
            if len(set(modes)) > 1:
                raise ValueError(
                    f"X must hold images of one mode, but they are {sorted(set(modes))}: fit each on its own"
                )
            recorded = recorded_image(image).values
            results.append(calibrate_image(recorded, modes[-1], averaged=was_averaged(image)))
            self._models.append(_attached_to_average(image) or results[-1].model)
            self._scales[digest(recorded)] = (self._models[-1].contrast, self._models[-1].level)
        self.noise_model_ = _mean_model(self._models)
        self.noise_model_std_ = _mean_std(self._models, [result.std for result in results])
        self.diagnostics_ = [result.diagnostics for result in results]
        self.n_images_ = len(images)
        return self

    @image_by_image()
    def transform(self, X: Images) -> Images:
        """The images with the calibrated noise model in ``attrs["noise"]``.

        Parameters
        ----------
        X : DataArray, ndarray or list of them

        Returns
        -------
        DataArray or list of DataArray
            The model is the fitted one with the contrast and level of each image. An ndarray becomes a DataArray, since
            an array has no attributes.
        """
        check_is_fitted(self, "noise_model_")
        return join([self._labeled(image) for image in split(X)], X)

    def plot(self, index: int = 0) -> Figure:
        """Plot the measured curves and the fitted model of one image.

        A note in a panel says where the model does not describe the measured points.

        Parameters
        ----------
        index : int, default=0
            Number of the fitted image.

        Returns
        -------
        matplotlib Figure
        """
        check_is_fitted(self, "noise_model_")
        return plot_calibration(self._models[index], self.diagnostics_[index])

    def _labeled(self, image: xr.DataArray) -> xr.DataArray:
        mode = self.mode or image.attrs.get("mode") or self.noise_model_.mode
        if mode != self.noise_model_.mode:
            raise ValueError(
                f"NoiseCalibrator was fitted on {self.noise_model_.mode} images, but this one is {mode}: fit it on "
                "images of this mode"
            )
        recorded = recorded_image(image).values
        known = self._scales.get(digest(recorded))
        contrast, level = known or contrast_and_level(recorded, mode, averaged=was_averaged(image))
        model = replace(self.noise_model_, contrast=contrast, level=level, mode=mode)
        out = image.copy(data=image.values.astype(float_dtype(image.dtype), copy=True))
        out.attrs = {**image.attrs, "mode": mode, "noise": noise_attr(image, model.to_dict())}
        return out


def _attached_to_average(image: xr.DataArray) -> NoiseModel | None:
    """The noise model of an average of frames that was measured on these; None for other images."""
    attached = check_noise_attr(image) if "n_frames" in image.coords else None
    return NoiseModel.from_dict(attached) if attached else None


# --- means over images -------------------------------------------------------------------------------------------

#: Lengths and periods along with the amplitudes that they belong to: images without any of these do not count.
AMPLITUDES_OF = {
    "background.length": ("background.amplitude",),
    "scan.length": ("scan.amplitude",),
    "scan.short_length": ("scan.short_amplitude",),
    "scan.jitter_length": ("scan.jitter", "scan.jitter_y"),
    "scan.drift_rows": ("scan.drift", "scan.drift_y"),
    "scan.hum_period": ("scan.hum", "scan.hum_y"),
}


def describes_noise(model: NoiseModel, key: str) -> bool:
    """Whether the number with this key describes anything: a length or a period without an amplitude does not."""
    amplitudes = AMPLITUDES_OF.get(key)
    return amplitudes is None or any(_number(model, amplitude) for amplitude in amplitudes)


def _number(model: NoiseModel, key: str) -> float:
    """The number with a key such as ``"pointwise.readout"``."""
    return float(attrgetter(key)(model))


def _mean_std(models: list[NoiseModel], stds: list[dict[str, float]]) -> dict[str, float]:
    """Standard deviation of the mean over images: propagated, or from their scatter, whichever is larger."""
    result = {}
    for key in stds[0]:
        chosen = _having(models, key)
        within = np.array([std[key] for model, std in zip(models, stds, strict=True) if model in chosen])
        values, n = np.array([_number(model, key) for model in chosen]), len(chosen)
        propagated = float(np.sqrt((within**2).sum()) / n)
        between = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 and np.isfinite(values).all() else 0.0
        result[key] = float(np.fmax(propagated, between)) if n > 1 else propagated
    return result


def _having(models: list[NoiseModel], key: str) -> list[NoiseModel]:
    """The models in which the parameter ``key`` describes noise; all models if there are none."""
    return [m for m in models if describes_noise(m, key)] or models


def _mean_model(models: list[NoiseModel]) -> NoiseModel:
    if len(models) == 1:
        return models[0]

    def mean(part: str, *names: str) -> dict[str, float]:
        return {name: _mean(models, f"{part}.{name}") for name in names}

    first = models[0]
    counted = sum(m.pointwise.kind == "poisson" for m in models) > len(models) / 2
    pointwise = mean("pointwise", "readout", "gain", "shape", "correlation_x")
    return NoiseModel(
        contrast=float(np.median([m.contrast for m in models])),
        level=float(np.median([m.level for m in models])),
        mode=first.mode,
        background=BackgroundNoise(**mean("background", "amplitude", "length")),
        scan=ScanNoise(**mean("scan", *(f.name for f in fields(ScanNoise)))),
        pointwise=PointwiseNoise(**pointwise, kind="poisson" if counted else "tukey"),
        digitization=first.digitization if len({m.digitization for m in models}) == 1 else Digitization(),
    )


def _mean(models: list[NoiseModel], key: str) -> float:
    values = np.array([_number(m, key) for m in _having(models, key)])
    # images with different periods do not have a hum of the mean period
    return float(np.median(values) if np.isinf(values).any() or key == "scan.hum_period" else values.mean())
