"""The calibrated noise of an image in sentences."""

from __future__ import annotations

import math

from stemkit.noise import NoiseModel

__all__ = ["noise_sentences"]

#: Smallest amplitude of a component that is mentioned, fraction of the contrast (chosen).
MIN_AMPLITUDE = 0.002
#: Smallest displacement that is mentioned, px (chosen: less than most position errors).
MIN_DISPLACEMENT = 0.02
#: Smallest correlation of neighbouring pixels that is mentioned (chosen).
MIN_CORRELATION = 0.02


def noise_sentences(model: NoiseModel, pixel_size: float | None = None) -> list[str]:
    """Describe the noise and its effect on the measurement.

    Parameters
    ----------
    model : NoiseModel
    pixel_size : float, optional
        Pixel size, nm. With it, displacements are also given in pm.
    """
    return [
        *_pointwise(model, pixel_size),
        *_displacements(model, pixel_size),
        *_streaks(model),
        *_background(model),
    ]


def _pointwise(model: NoiseModel, pixel_size: float | None) -> list[str]:
    noise = model.pointwise
    at_columns = math.sqrt(max(noise.readout**2 + abs(noise.gain), 0.0))
    sentences = [
        f"Single pixels: the noise has a standard deviation of {noise.readout:.1%} of the contrast in the background "
        f"and {at_columns:.1%} at the brightest columns."
        if noise.gain > 0
        else f"Single pixels: the noise has a standard deviation of {noise.readout:.1%} of the contrast in the "
        "background."
    ]
    if noise.kind == "poisson":
        area = "" if pixel_size is None else f", {model.dose_per_area(pixel_size):.3g} per Å²"
        sentences.append(
            f"It grows with the signal as the noise of counted electrons does: {model.dose:.3g} electrons per pixel at "
            f"the brightest columns, above the background{area}."
        )
    if abs(noise.correlation_x) > MIN_CORRELATION:
        sentences.append(
            f"Neighbouring pixels of a row have a correlation of {noise.correlation_x:.2f}, which the errors include."
        )
    return sentences


def _displacements(model: NoiseModel, pixel_size: float | None) -> list[str]:
    scan, sentences = model.scan, []

    def length(pixels: float) -> str:
        return f"{pixels:.2g} px" if pixel_size is None else f"{pixels:.2g} px ({1000 * pixels * pixel_size:.2g} pm)"

    def both(x: float, y: float) -> str:
        return " and ".join(f"{length(d)} along {axis}" for d, axis in ((x, "x"), (y, "y")) if d > MIN_DISPLACEMENT)

    if max(scan.jitter, scan.jitter_y) > MIN_DISPLACEMENT:
        sentences.append(
            f"Jitter: rows are displaced independently by {both(scan.jitter, scan.jitter_y)} (RMS). Columns of the "
            "same rows share this displacement; the table has it as x_jitter and y_jitter, apart from the errors."
        )
    if max(scan.drift, scan.drift_y) > MIN_DISPLACEMENT:
        sentences.append(
            f"Slow displacements: {both(scan.drift, scan.drift_y)} (RMS), over {scan.drift_rows:.3g} rows."
        )
    if max(scan.hum, scan.hum_y) > MIN_DISPLACEMENT:
        sentences.append(
            f"Hum: rows are displaced periodically, by {both(scan.hum, scan.hum_y)} (amplitude), with a period of "
            f"{scan.hum_period:.3g} rows."
        )
    return sentences or ["Rows: no displacement was found."]


def _streaks(model: NoiseModel) -> list[str]:
    scan = model.scan
    if scan.amplitude <= MIN_AMPLITUDE:
        return []
    extent = "whole rows" if math.isinf(scan.length) else f"a correlation length of {scan.length:.3g} px"
    return [f"Streaks along the rows: {scan.amplitude:.1%} of the contrast, {extent}."]


def _background(model: NoiseModel) -> list[str]:
    smooth = model.background
    if smooth.amplitude <= MIN_AMPLITUDE:
        return []
    return [
        f"The background varies by {smooth.amplitude:.1%} of the contrast over {smooth.length:.3g} px (thickness, "
        "contamination, support)."
    ]
