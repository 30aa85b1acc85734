"""``stemkit demo``: calibration, enhancement and detection on simulated images with known truth."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.atomic import check_place, whole_file
from stemkit.cli.figures import non_interactive_pyplot, save_and_close
from stemkit.cli.messages import first_use
from stemkit.cli.progress import Progress

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from stemkit.metrics import Match
    from stemkit.noise import NoiseModel

#: Crystals, signals and electrons per pixel at the brightest column, above the darkest point (chosen).
SCENES = (
    ("tungsten_diselenide", "haadf", 12.0),
    ("graphene_silicon", "haadf", 40.0),
    ("gold_110", "haadf", 5.0),
    ("gold_110", "abf", 30.0),
)
#: Edge of the images, px (chosen).
IMAGE_SIZE = 320
#: Pixel size of the images, nm (chosen).
PIXEL_SIZE = 0.011
#: Columns nearer than this to the border are not counted, px (chosen: they are cut).
BORDER = 4
#: Expected electrons per pixel in the background of HAADF, fraction of the dose (chosen).
BACKGROUND_FRACTION = 0.1
#: Standard deviation of the nearly noise-free image in which the true positions are measured, fraction of the contrast.
MIN_NOISE = 0.002
#: Edge of the enlarged part in the figures, px (chosen).
ENLARGED_EDGE = 150
#: Explanation of the printed table.
EXPLANATION = """\
recorded, enhanced: peak signal-to-noise ratio. found: of the true columns, those at the border left out. false: columns
found where there is none. RMS: deviation from the true position along an axis; stated: what the errors in the table,
with the jitter of the rows, say it is; both for good columns. The network was not trained on these crystals."""


@dataclass(frozen=True)
class Outcome:
    """Results of one image."""

    name: str
    psnr: tuple[float, float]
    n_true: int
    match: Match
    n_found: int
    rms: float
    stated: float

    def cells(self) -> tuple[str, ...]:
        """Texts of a row of the table."""
        matched = len(self.match.true)
        return (
            self.name,
            f"{self.psnr[0]:.1f}",
            f"{self.psnr[1]:.1f} dB",
            f"{matched} of {self.n_true}",
            str(self.n_found - matched),
            f"{self.rms:.1f} pm",
            f"{self.stated:.1f} pm",
        )


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="run all steps on simulated images with known truth",
        description="Add the noise of a scan to multislice images that are part of the package, measure it, enhance "
        "the images, measure their columns, and compare with the truth.",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo-output"), metavar="FOLDER", help="default: demo-output"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the pipeline on each image and print a table of its results."""
    non_interactive_pyplot()
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    for name, signal, _ in SCENES:
        for path in _targets(folder, name, signal):
            check_place(path, arguments.overwrite)
    rows = []
    with Progress(len(SCENES)) as progress:
        for name, signal, dose in SCENES:
            rows.append(_run_scene(name, signal, dose, folder, progress).cells())
            progress.advance()
    header = ("image", "recorded", "enhanced", "found", "false", "RMS", "stated")
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]))
    recorded = _targets(folder, *SCENES[0][:2])[0]
    print(f"\n{EXPLANATION}\n\nFigures, tables and images are in {folder}. Next:\n")
    print(f"  stemkit report {recorded} -o {folder}    # a page about this image, or about your own")
    return 0


def _targets(folder: Path, name: str, signal: str) -> tuple[Path, Path, Path]:
    """Paths of the recorded image, the table and the figure."""
    stem = f"{name}_{signal}"
    return folder / f"{stem}.nc", folder / f"{stem}_columns.csv", folder / f"{stem}.png"


def _run_scene(name: str, signal: str, dose: float, folder: Path, progress: Progress) -> Outcome:
    import numpy as np

    from stemkit import AtomDetector, NoiseCalibrator, SFINDenoiser, write
    from stemkit.benchmark import simulated
    from stemkit.detection import good_columns
    from stemkit.metrics import match_columns, psnr

    true_image, truth = simulated(name, signal, shape=(IMAGE_SIZE, IMAGE_SIZE), pixel_size=PIXEL_SIZE)
    recorded: Any = _scanned(true_image, dose).apply(true_image, random_state=0)
    detector = AtomDetector()
    progress.step(f"{name} {signal}: measuring the noise{first_use()}")
    calibrated = NoiseCalibrator().fit_transform(recorded)
    progress.step(f"{name} {signal}: enhancing")
    enhanced = SFINDenoiser().fit_transform(calibrated)
    progress.step(f"{name} {signal}: measuring the columns")
    columns = detector.fit_transform(enhanced)
    radius = detector.spacing_ / 3
    measured, true = (
        table[table[["y_px", "x_px"]].apply(lambda p: p.between(BORDER, IMAGE_SIZE - 1 - BORDER)).all(axis=1)]
        for table in (columns, truth)
    )
    match = match_columns(measured[["y", "x"]], true[["y", "x"]], radius)
    paths = _targets(folder, name, signal)
    write(recorded, paths[0], overwrite=True)
    with whole_file(paths[1]) as temporary:
        columns.to_csv(temporary, index=False)
    progress.step(f"{name} {signal}: comparing with the truth")
    title = f"{name} {signal.upper()}, multislice simulation, {dose:g} electrons per pixel at the brightest column"
    figure = _figure(recorded, enhanced, measured, true, match)
    figure.suptitle(title)
    save_and_close(figure, paths[2], dpi=110)
    good, exact = good_columns(columns), _true_positions(true_image)
    pairs = match_columns(good[["y", "x"]], exact[["y", "x"]], radius)
    found = good.iloc[pairs.found]
    deviation = found[["y", "x"]].to_numpy() - exact[["y", "x"]].to_numpy()[pairs.true]
    stated = np.hypot(found[["y_err", "x_err"]].to_numpy(), found[["y_jitter", "x_jitter"]].to_numpy())
    return Outcome(
        f"{name} {signal.upper()}",
        (float(psnr(recorded, true_image)), float(psnr(enhanced, true_image))),
        len(true),
        match,
        len(measured),
        *(1e3 * float(np.sqrt(np.mean(values**2))) for values in (deviation, stated)),
    )


def _scanned(true_image: xr.DataArray, dose: float) -> NoiseModel:
    """Counting noise, streaks, and rows that jitter and move with the hum of the mains."""
    from stemkit import NoiseModel, PointwiseNoise, ScanNoise

    low, high = float(true_image.min()), float(true_image.max())
    dark = true_image.attrs["mode"] == "bf"
    level = high if dark else low
    background = dose * high / (high - low) if dark else BACKGROUND_FRACTION * dose
    counts = PointwiseNoise.counted(dose, background=background, mode=true_image.attrs["mode"])
    scan = ScanNoise(amplitude=0.03, length=20.0, jitter=0.3, hum=0.3, hum_period=8.3)
    return NoiseModel(high - low, level, true_image.attrs["mode"], scan=scan, pointwise=counts)


def _true_positions(true_image: xr.DataArray) -> pd.DataFrame:
    """Columns of the true image: frozen phonons displace atoms by some pm from the positions of the crystal."""
    from stemkit import AtomDetector, NoiseModel, PointwiseNoise

    contrast = float(true_image.max() - true_image.min())
    nearly = NoiseModel(contrast, mode=true_image.attrs["mode"], pointwise=PointwiseNoise(readout=MIN_NOISE))
    return AtomDetector().fit_transform(nearly.apply(true_image, random_state=1))


def _figure(
    recorded: xr.DataArray, enhanced: xr.DataArray, columns: pd.DataFrame, truth: pd.DataFrame, match: Match
) -> Figure:
    """The recorded and the enhanced image with missed and false columns, and an enlarged part with all columns."""
    import matplotlib.pyplot as plt
    import numpy as np

    from stemkit.plotting import show_image

    part = {
        d: slice((n - ENLARGED_EDGE) // 2, (n - ENLARGED_EDGE) // 2 + ENLARGED_EDGE) for d, n in recorded.sizes.items()
    }
    figure, axes = plt.subplots(1, 4, figsize=(17, 4.9), layout="constrained")
    show_image(recorded, axes[0], "recorded")
    show_image(enhanced, axes[1], "enhanced")
    show_image(recorded.isel(part), axes[2], "enlarged")
    show_image(enhanced.isel(part), axes[3], "enlarged, with columns")
    others = np.setdiff1d(np.arange(len(columns)), match.found), np.setdiff1d(np.arange(len(truth)), match.true)
    start = part["y"].start, part["x"].start
    for table, rows, style in (
        (columns, match.found, {"marker": "o", "facecolors": "none", "edgecolors": "#56b4e9", "label": "measured"}),
        (truth, np.arange(len(truth)), {"marker": "+", "c": "#e8543f", "s": 22, "linewidths": 0.7, "label": "true"}),
        (truth, others[1], {"marker": "s", "facecolors": "none", "edgecolors": "#f0e442", "label": "missed"}),
        (columns, others[0], {"marker": "D", "facecolors": "none", "edgecolors": "#ff2020", "label": "false"}),
    ):
        places = table.iloc[rows][["y_px", "x_px"]].to_numpy()
        _draw(axes[3], places, style, start, ENLARGED_EDGE)
        if style["label"] in ("missed", "false"):
            _draw(axes[1], places, style)
    handles, labels = axes[3].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower right", ncols=4, facecolor="0.3", labelcolor="white")
    return figure


def _draw(
    ax: Any, places: NDArray, style: dict[str, Any], start: tuple[int, int] = (0, 0), size: int = IMAGE_SIZE
) -> None:
    """Draw positions in a square part of the image, with their number in the whole image in the legend."""
    y, x = (places - start).T
    inside = (y > -0.5) & (y < size - 0.5) & (x > -0.5) & (x < size - 0.5)
    style = {"s": 60, "linewidths": 1.3, **style, "label": f"{style['label']} ({len(places)})"}
    ax.scatter(x[inside], y[inside], **style)
