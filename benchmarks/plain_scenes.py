"""STEM images with known noise, in plain NumPy and SciPy: ``python benchmarks/plain_scenes.py`` checks them.

They follow the definitions of the noise model and share no code with stemkit, so that an error in the package's
simulation of noise cannot hide an error in its measurement. ``signal`` is (I_true - level) / contrast: background 0,
brightest columns 1. Positions are (y, x) in px.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.polynomial import hermite_e
from numpy.typing import NDArray
from scipy import ndimage, optimize, signal, special, stats

#: Distance from a column, sigmas, at which its Gaussian is truncated.
REACH = 6.0

#: Ranges of the spacing, px, and of the column width as a fraction of the spacing (chosen).
CRYSTALS = {
    "square": ((14.0, 24.0), (0.15, 0.21)),
    "perovskite": ((20.0, 28.0), (0.10, 0.14)),
    "hexagonal": ((14.0, 22.0), (0.15, 0.21)),
    "dumbbell": ((22.0, 30.0), (0.08, 0.10)),
    "flake": ((14.0, 22.0), (0.15, 0.21)),
    "wide": ((30.0, 40.0), (0.15, 0.165)),
    "narrow": ((9.0, 10.0), (0.20, 0.22)),
}


@dataclass(frozen=True)
class Noise:
    """Amplitudes as fractions of the contrast; lengths and displacements in px."""

    readout: float = 0.08
    gain: float = 0.01
    shape: float = 0.14
    correlation_x: float = 0.0
    kind: str = "tukey"
    streaks: float = 0.03
    streaks_length: float = 20.0
    jitter: float = 0.4
    jitter_length: float = np.inf
    background: float = 0.05
    background_length: float = 20.0
    jitter_y: float = 0.0
    drift: float = 0.0
    drift_y: float = 0.0
    drift_rows: float = 4.0
    hum: float = 0.0
    hum_y: float = 0.0
    hum_period: float = 7.3
    short_streaks: float = 0.0
    short_streaks_length: float = 2.5


class Columns(NamedTuple):
    y: NDArray
    x: NDArray
    amplitude: NDArray
    sigma: float


class Fields(NamedTuple):
    """Components of a simulated image.

    ``displaced_signal`` is signal + background at the displaced positions of the beam, ``shift`` the displacement along
    x, ``parts`` the components of the displacements by name.
    """

    background: NDArray
    shift: NDArray
    displaced_signal: NDArray
    pointwise: NDArray
    streaks: NDArray
    short_streaks: NDArray
    parts: dict[str, NDArray]


def crystal(
    kind: str, shape: tuple[int, int], spacing: float, sigma: float, rng: np.random.Generator
) -> tuple[NDArray, Columns]:
    """A randomly rotated and shifted crystal, and its columns, including those just outside the image."""
    basis, motif = unit_cell(kind, rng)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    half = np.array(shape) / 2
    reach = int(np.ceil(1.3 * np.hypot(*shape) / spacing)) + 8
    steps = np.stack(np.meshgrid(*2 * [np.arange(-reach, reach + 1)], indexing="ij"), axis=-1).reshape(-1, 2)
    origin = rng.uniform(0, 1, 2)
    placed = []
    for offset, height in motif:
        sites = (steps + origin + offset) @ basis * spacing @ turn.T + half
        placed.append(np.column_stack([sites, np.full(len(sites), height)]))
    y, x, amplitude = np.concatenate(placed).T
    y, x = y + rng.normal(0, 0.05, y.shape), x + rng.normal(0, 0.05, x.shape)
    amplitude = amplitude * (1 + rng.normal(0, 0.03, amplitude.shape))
    margin = REACH * sigma + 20
    near = (abs(y - half[0]) < half[0] + margin) & (abs(x - half[1]) < half[1] + margin)
    if kind == "flake":
        near &= island(y - half[0], x - half[1], rng)
    y, x, amplitude = y[near], x[near], amplitude[near]
    brightest = amplitude > 0.75
    amplitude = amplitude / np.median(amplitude[brightest])
    columns = Columns(y, x, amplitude, float(sigma))
    return render(columns, np.zeros(shape)), columns


def unit_cell(kind: str, rng: np.random.Generator) -> tuple[NDArray, list[tuple[NDArray, float]]]:
    """Lattice vectors as rows, in spacings, and the basis: (position in fractions of the vectors, height)."""
    square, hexagonal = np.eye(2), np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]])
    corner = (np.zeros(2), 1.0)
    if kind in ("square", "wide", "narrow"):
        return square, [corner]
    if kind in ("hexagonal", "flake"):
        return hexagonal, [corner]
    if kind == "perovskite":
        return square, [corner, (np.array([0.5, 0.5]), rng.uniform(0.45, 0.6))]
    if kind == "dumbbell":
        return square, [corner, (np.array([rng.uniform(0.3, 0.4), 0.0]), 1.0)]
    raise ValueError(f"kind must be one of {', '.join(CRYSTALS)}, got {kind!r}")


def island(y: NDArray, x: NDArray, rng: np.random.Generator) -> NDArray:
    """True on one side of a wavy line: 40-70 % of the columns."""
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    across = y * np.cos(angle) + x * np.sin(angle)
    along = x * np.cos(angle) - y * np.sin(angle)
    distance = across + 0.03 * np.ptp(along) * np.sin(4 * np.pi * along / np.ptp(along) + phase)
    return distance < np.quantile(distance, rng.uniform(0.4, 0.7))


def random_crystal(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> tuple[NDArray, Columns]:
    spacings, widths = CRYSTALS[kind]
    spacing = rng.uniform(*spacings)
    return crystal(kind, shape, spacing, spacing * rng.uniform(*widths), rng)


def render(columns: Columns, shift: NDArray, shift_y: NDArray | float = 0.0) -> NDArray:
    """The sum of the Gaussians at x + shift(y, x), y + shift_y(y, x)."""
    image = np.zeros(shift.shape)
    at_x = np.arange(shift.shape[1]) + shift
    at_y = np.broadcast_to(np.arange(shift.shape[0])[:, None] + shift_y, shift.shape)
    tall = REACH * columns.sigma + np.abs(shift_y).max()
    wide = REACH * columns.sigma + abs(shift).max()
    for y, x, amplitude in zip(columns.y, columns.x, columns.amplitude, strict=True):
        y0, y1 = max(int(np.ceil(y - tall)), 0), min(int(y + tall) + 1, shift.shape[0])
        x0, x1 = max(int(np.ceil(x - wide)), 0), min(int(x + wide) + 1, shift.shape[1])
        if y0 < y1 and x0 < x1:
            squared = (at_y[y0:y1, x0:x1] - y) ** 2 + (at_x[y0:y1, x0:x1] - x) ** 2
            image[y0:y1, x0:x1] += amplitude * np.exp(-squared / (2 * columns.sigma**2))
    return image


def add_noise(
    signal: NDArray, noise: Noise, rng: np.random.Generator, *, columns: Columns | None = None
) -> tuple[NDArray, dict[str, float]]:
    """The signal as recorded, and what was realised in it.

    With ``columns`` the beam's displacement is exact; without, the signal is interpolated along the rows.
    """
    noisy, fields = draw(signal, noise, rng, columns=columns)
    return noisy, realised(fields, noise)


def draw(
    signal: NDArray, noise: Noise, rng: np.random.Generator, *, columns: Columns | None = None
) -> tuple[NDArray, Fields]:
    """The recorded signal, and the fields of its noise."""
    shape = signal.shape
    parts = displacements(shape, noise, rng)
    shift, shift_y = (sum(parts[name + end] for name in ("jitter", "drift", "hum")) for end in ("", "_y"))
    # the splines are inaccurate at their edge
    margin = int(np.ceil(abs(shift).max())) + 12
    above = int(np.ceil(abs(shift_y).max())) + 12 if abs(shift_y).max() > 0 else 0
    wider = (shape[0] + 2 * above, shape[1] + 2 * margin)
    background = noise.background * smooth_plane(wider, noise.background_length, rng)
    displaced_signal = displaced(background, shift, margin, shift_y, above)
    displaced_signal = displaced_signal + (
        displaced(signal, shift, 0, shift_y) if columns is None else render(columns, shift, shift_y)
    )
    pointwise = pointwise_noise(displaced_signal, noise, rng)
    streaks = noise.streaks * along_rows(shape, noise.streaks_length, rng)
    short = np.zeros(shape)
    if noise.short_streaks > 0:
        short = noise.short_streaks * along_rows(shape, noise.short_streaks_length, rng)
    background = background[above : above + shape[0], margin : margin + shape[1]]
    fields = Fields(background, shift, displaced_signal, pointwise, streaks, short, parts)
    return displaced_signal + pointwise + streaks + short, fields


def displacements(shape: tuple[int, int], noise: Noise, rng: np.random.Generator) -> dict[str, NDArray]:
    """All components of the displacements along x and y, px."""
    parts = {}
    y, x = np.indices(shape)
    for end in ("", "_y"):
        jitter, drift, hum = (getattr(noise, name + end) for name in ("jitter", "drift", "hum"))
        still = jitter == 0 and end == "_y"  # along x a field is always drawn
        parts[f"jitter{end}"] = np.zeros(shape) if still else jitter * along_rows(shape, noise.jitter_length, rng)
        slow = along_rows((1, shape[0]), noise.drift_rows, rng)[0] if drift else np.zeros(shape[0])
        parts[f"drift{end}"] = drift * np.repeat(slow[:, None], shape[1], axis=1)
        phase = rng.uniform() if hum else 0.0
        parts[f"hum{end}"] = hum * np.sin(2 * np.pi * (phase + (y + x / shape[1]) / noise.hum_period))
    return parts


def recorded(noisy: NDArray, *, mode: str, contrast: float, level: float) -> NDArray:
    return level + contrast * noisy if mode == "haadf" else level - contrast * noisy


def realised(fields: Fields, noise: Noise) -> dict[str, float]:
    """The image's own values where it has any: fields over the image, moments of the noise.

    The background's mean is a part of the image's level, as it is of any recorded image's: readout is the noise there.
    Lengths and the shape are the true ones; counted electrons have no shape.
    """
    readout, gain = variance_line(fields, noise)
    variance = pointwise_variance(fields.displaced_signal, noise)
    return {
        "readout": readout,
        "gain": gain,
        "shape": noise.shape if noise.kind == "tukey" else np.nan,
        "correlation_x": lag_one(fields.pointwise, variance),
        "streaks": float(fields.streaks.std()),
        "streaks_length": noise.streaks_length,
        **{name: float(field.std()) for name, field in fields.parts.items()},
        # the amplitude of the hum is not random
        "hum": noise.hum,
        "hum_y": noise.hum_y,
        "drift_rows": noise.drift_rows,
        "hum_period": noise.hum_period,
        "short_streaks": float(fields.short_streaks.std()),
        "short_streaks_length": noise.short_streaks_length,
        "jitter_length": noise.jitter_length,
        "background": float(fields.background.std()),
        "background_length": noise.background_length,
    }


def variance_line(fields: Fields, noise: Noise) -> tuple[float, float]:
    """Readout and gain from a line through the squared noise, weighted by its expected variance."""
    displaced_signal, pointwise = fields.displaced_signal, fields.pointwise
    variance = pointwise_variance(displaced_signal, noise)
    is_noisy = variance > 1e-3 * variance.max() if variance.max() > 0 else np.zeros(displaced_signal.shape, dtype=bool)
    if not is_noisy.any():
        return 0.0, 0.0
    gain, floor = np.polyfit(
        displaced_signal[is_noisy] - fields.background.mean(), pointwise[is_noisy] ** 2, 1, w=1 / variance[is_noisy]
    )
    return float(np.sqrt(max(floor, 0.0))), float(gain)


def lag_one(pointwise: NDArray, variance: NDArray) -> float:
    """Lag-1 correlation along x of the noise over its standard deviation."""
    is_noisy = variance > 1e-3 * variance.max()
    scores = np.divide(pointwise, np.sqrt(variance), out=np.zeros_like(pointwise), where=is_noisy)
    pairs = is_noisy[:, 1:] & is_noisy[:, :-1]
    if not pairs.any():
        return 0.0
    return float((scores[:, 1:] * scores[:, :-1])[pairs].mean() / (scores[is_noisy] ** 2).mean())


def pointwise_variance(displaced_signal: NDArray, noise: Noise) -> NDArray:
    return np.maximum(noise.readout**2 + noise.gain * displaced_signal, 0)


def pointwise_noise(displaced_signal: NDArray, noise: Noise, rng: np.random.Generator) -> NDArray:
    variance = pointwise_variance(displaced_signal, noise)
    if noise.kind == "tukey":
        return np.sqrt(variance) * tukey_rows(displaced_signal.shape, noise.shape, noise.correlation_x, rng)
    if noise.correlation_x != 0 or noise.gain == 0:
        raise ValueError("counted noise has a gain and no correlation")
    return noise.gain * rng.poisson(variance / noise.gain**2) - noise.readout**2 / noise.gain - displaced_signal


def displaced(field: NDArray, shift: NDArray, margin: int, shift_y: NDArray | float = 0.0, above: int = 0) -> NDArray:
    """The field at x + shift, y + shift_y, by splines of the fifth order; ``margin`` px more at either side are known,
    and ``above`` above and below.
    """
    rows, columns = np.indices(shift.shape, dtype=float)
    return ndimage.map_coordinates(field, [rows + above + shift_y, columns + margin + shift], order=5, mode="mirror")


def smooth_plane(shape: tuple[int, int], length: float, rng: np.random.Generator) -> NDArray:
    """White noise through a round Gaussian of ``length`` px, of unit expected variance."""
    size = [n + int(np.ceil(8 * length)) for n in shape]  # no wrap-around within 8 sigmas
    spectrum = np.fft.rfft2(rng.standard_normal(size))
    down, across = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None, :]
    transfer = np.exp(-2 * (np.pi * length) ** 2 * (down**2 + across**2))
    every = np.exp(-2 * (np.pi * length) ** 2 * (down**2 + np.fft.fftfreq(size[1])[None, :] ** 2))
    field = np.fft.irfft2(spectrum * transfer, s=size) / np.sqrt((every**2).mean())
    return field[: shape[0], : shape[1]]


def along_rows(shape: tuple[int, int], length: float, rng: np.random.Generator) -> NDArray:
    """White noise through a Gaussian of ``length`` px along x, of unit expected variance; inf: one value per row."""
    if np.isinf(length):
        return np.repeat(rng.standard_normal((shape[0], 1)), shape[1], axis=1)
    half = int(np.ceil(5 * length))
    kernel = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * length**2))
    kernel /= np.sqrt((kernel**2).sum())
    white = rng.standard_normal((shape[0], shape[1] + 2 * half))
    return signal.fftconvolve(white, kernel[None, :], mode="valid", axes=1)


def tukey_rows(shape: tuple[int, int], lam: float, correlation: float, rng: np.random.Generator) -> NDArray:
    """Tukey lambda noise of unit variance with a given lag-1 correlation along x."""
    step = score_correlation(lam, correlation)
    white = rng.standard_normal(shape)
    white[:, 1:] *= np.sqrt(1 - step**2)  # the first of a row is drawn from the stationary distribution
    return tukey_of_scores(signal.lfilter([1.0], [1.0, -step], white, axis=1), lam)


def tukey_of_scores(scores: NDArray, lam: float) -> NDArray:
    """The Tukey quantile of a normal score's probability, over its standard deviation."""
    below, above = special.log_ndtr(scores), special.log_ndtr(-scores)
    if lam == 0:
        return (below - above) / np.sqrt(np.pi**2 / 3)
    value = (np.expm1(lam * below) - np.expm1(lam * above)) / lam
    spread = 2 / lam**2 * (1 / (1 + 2 * lam) - special.gamma(lam + 1) ** 2 / special.gamma(2 * lam + 2))
    return value / np.sqrt(spread)


def score_correlation(lam: float, correlation: float) -> float:
    """Correlation of the normal scores that gives the requested one after the mapping.

    By Mehler's expansion: a function with Hermite coefficients c_k of scores correlated by r has the covariance
    sum of c_k^2 k! r^k.
    """
    if correlation == 0:
        return 0.0
    z = np.linspace(-12, 12, 24001)
    density = stats.norm.pdf(z) * (z[1] - z[0])
    value = tukey_of_scores(z, lam)
    power = np.zeros(40)
    for k in range(1, len(power), 2):
        coefficient = (value * hermite_e.hermeval(z, np.eye(k + 1)[k]) * density).sum()
        power[k] = coefficient**2 / special.factorial(k)
    power /= (value**2 * density).sum()
    mapped = np.polynomial.Polynomial(power)
    return float(optimize.brentq(lambda r: mapped(r) - correlation, -0.999, 0.999))


def check(seed: int = 0) -> None:
    """Compare all components with theory; the tolerances are about four standard errors."""
    rng = np.random.default_rng(seed)
    check_fields(rng)
    check_pointwise(rng)
    check_crystals(rng)
    check_whole(rng)
    print("plain_scenes: all parts as defined")


def check_fields(rng: np.random.Generator) -> None:
    for length in (8.0, 20.0):
        plane = smooth_plane((2048, 2048), length, rng)
        assert abs((plane**2).mean() - 1) < 4 * np.sqrt(2 * 2 * np.pi) * length / 2048
        for lag in (int(length), int(2 * length)):
            for axis in (0, 1):
                theory = np.exp(-(lag**2) / (4 * length**2))
                found = (plane.take(range(lag, 2048), axis) * plane.take(range(2048 - lag), axis)).mean()
                assert abs(found - theory) < 4 * np.sqrt(2 * 2 * np.pi) * length / 2048
    for length in (5.0, 20.0, 60.0):
        rows = along_rows((4000, 512), length, rng)
        error = 4 * np.sqrt(2 * np.sqrt(2 * np.pi) * length / rows.size)
        lag = int(1.5 * length)
        assert abs((rows**2).mean() - 1) < error
        assert abs((rows[:, lag:] * rows[:, :-lag]).mean() - np.exp(-((lag / length) ** 2) / 4)) < 2 * error
        assert abs((rows[1:] * rows[:-1]).mean()) < error
        assert np.allclose((rows**2).mean(axis=0), 1, atol=5 * np.sqrt(2 / 4000))  # the same at the edges
    rows = along_rows((4000, 8), np.inf, rng)
    assert np.ptp(rows, axis=1).max() == 0
    assert abs(rows.std() - 1) < 4 / np.sqrt(8000)


def check_pointwise(rng: np.random.Generator) -> None:
    for lam in (-0.1, 0.0, 0.14, 0.3):
        for correlation in (0.0, 0.3, 0.5):
            noise = tukey_rows((1000, 1000), lam, correlation, rng)
            assert abs(noise.std() - 1) < 0.01
            assert abs((noise[:, 1:] * noise[:, :-1]).mean() - correlation) < 0.01
            assert abs((noise[1:] * noise[:-1]).mean()) < 0.004
            assert abs(noise.mean()) < 0.007
            quantiles = stats.tukeylambda.ppf([0.05, 0.25, 0.9], lam) / stats.tukeylambda.std(lam)
            assert np.allclose(np.quantile(noise, [0.05, 0.25, 0.9]), quantiles, atol=0.012)
    for gain, readout in ((0.02, 0.08), (0.3, 0.1), (-0.02, 0.2)):
        for kind in ("tukey", "poisson"):
            noise = Noise(readout=readout, gain=gain, kind=kind)
            displaced_signal = np.repeat([[0.0], [0.5], [1.0]], 200_000, axis=1)
            drawn = pointwise_noise(displaced_signal, noise, rng)
            variance = pointwise_variance(displaced_signal, noise)[:, 0]
            assert np.all(abs(drawn.mean(axis=1)) < 4.5 * np.sqrt(variance / 200_000))
            kurtosis = 2 + 1.2 + gain**2 / variance
            assert np.all(abs((drawn**2).mean(axis=1) / variance - 1) < 4.5 * np.sqrt(kurtosis / 200_000))
            none = np.zeros_like(displaced_signal)
            line = variance_line(Fields(none, none, displaced_signal, drawn, none, none, {}), noise)
            assert np.allclose(line, (readout, gain), rtol=0.03)


def check_crystals(rng: np.random.Generator) -> None:
    for kind in CRYSTALS:
        true_image, columns = random_crystal(kind, (256, 320), rng)
        assert true_image.shape == (256, 320)
        assert true_image.min() >= 0
        bright = columns.amplitude > 0.75
        assert abs(np.median(columns.amplitude[bright]) - 1) < 1e-12
        assert 0.02 < columns.amplitude[bright].std() < 0.045
        assert 0.85 < true_image.max() < 1.3
        moved = columns._replace(x=columns.x - 0.7)
        assert np.allclose(
            render(columns, np.full(true_image.shape, 0.7)), render(moved, np.zeros(true_image.shape)), atol=1e-7
        )
        shift = along_rows(true_image.shape, 60.0, rng)
        inner = slice(12, -12)
        difference = (displaced(true_image, shift, 0) - render(columns, shift))[:, inner]
        assert abs(difference).max() < 0.01
        inside = (columns.y > 0) & (columns.y < 256) & (columns.x > 0) & (columns.x < 320)
        assert 20 < inside.sum() < 2000


def check_whole(rng: np.random.Generator) -> None:
    signal, columns = random_crystal("square", (512, 512), rng)
    quiet = Noise(0, 0, 0.14, 0, "tukey", 0, 20, 0, np.inf, 0, 20)
    noisy, found = add_noise(signal, quiet, rng, columns=columns)
    assert np.allclose(noisy, signal, atol=1e-12)
    assert found["readout"] == found["gain"] == found["jitter"] == found["background"] == 0
    noise = Noise(correlation_x=0.3, streaks_length=5.0, jitter_length=20.0, background_length=8.0)
    noisy, fields = draw(signal, noise, rng, columns=columns)
    assert np.allclose(noisy, fields.displaced_signal + fields.pointwise + fields.streaks)
    crystal_seen = render(columns, fields.shift)
    # to first order the background at x + shift is the background plus its slope times the shift
    linear = fields.background + fields.shift * np.gradient(fields.background, axis=1)
    assert (fields.displaced_signal - crystal_seen - linear).std() < 2e-4
    assert np.allclose(
        [realised(fields, noise)[name] for name in ("readout", "gain", "correlation_x", "jitter", "background")],
        [0.08, 0.01, 0.3, 0.4, 0.05],
        rtol=0.1,
    )
    bright = recorded(noisy, mode="haadf", contrast=300.0, level=50.0)
    dark = recorded(noisy, mode="bf", contrast=300.0, level=50.0)
    assert np.allclose(bright + dark, 100.0)


if __name__ == "__main__":
    check()
