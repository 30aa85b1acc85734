"""``stemkit demo``: calibration, enhancement and detection on synthetic images with known truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.atomic import check_place, whole_file
from stemkit.cli.figures import non_interactive_pyplot, save_and_close
from stemkit.cli.progress import Progress

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

#: Seeds of the images (chosen before the results were known; the training of the network uses others).
SEEDS = (20, 21, 22)
#: Lattice, basis and relative amplitudes of the crystals (chosen).
CRYSTALS = (
    ("square", [(0, 0), (0.5, 0.5)], [1.0, 0.55]),
    ("hexagonal", [(0, 0), (1 / 3, 1 / 3)], [1.0, 0.7]),
    ("oblique", [(0, 0)], [1.0]),
)


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="run all steps on synthetic images with known truth",
        description="Synthesise images, calibrate their noise, enhance them, measure their columns, and compare with "
        "the truth.",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo-output"), metavar="FOLDER", help="default: demo-output"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the pipeline in both modes and print a table of its results."""
    non_interactive_pyplot()
    folder = arguments.output
    scenes = [(mode, seed) for mode in ("haadf", "bf") for seed in SEEDS]
    folder.mkdir(parents=True, exist_ok=True)
    for mode, seed in scenes:
        for path in _targets(folder, mode, seed):
            check_place(path, arguments.overwrite)
    rows = []
    with Progress(len(scenes)) as progress:
        for mode, seed in scenes:
            progress.step(f"{mode}_{seed}")
            rows.append(_run_scene(mode, seed, folder))
            progress.advance()
    header = ("scene", "PSNR before", "after", "columns", "found", "F1", "RMS error", "stated error")
    widths = (8, 12, 9, 8, 6, 6, 11, 13)
    print("  ".join(h.rjust(w) for h, w in zip(header, widths, strict=True)))
    for row in rows:
        print("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)))
    print(
        "RMS and stated errors are of the columns not at the border; the stated errors include the jitter of the probe."
    )
    print(f"figures and tables: {folder}")
    return 0


def _targets(folder: Path, mode: str, seed: int) -> tuple[Path, Path]:
    """Paths of the table and the figure of an image."""
    return folder / f"{mode}_{seed}_columns.csv", folder / f"{mode}_{seed}.png"


def _run_scene(mode: str, seed: int, folder: Path) -> tuple[str, ...]:
    import numpy as np
    from sklearn.pipeline import Pipeline

    from stemkit import AtomDetector, NoiseCalibrator, SFINDenoiser
    from stemkit.detection import Quality
    from stemkit.metrics import match_columns, psnr
    from stemkit.plotting import compare

    pairs, truth = _scene(mode, seed)
    noisy, clean = pairs["noisy"][0], pairs["enhance"][0]
    pipeline = Pipeline([("noise", NoiseCalibrator()), ("denoise", SFINDenoiser()), ("atoms", AtomDetector())])
    columns = pipeline.fit_transform(noisy)
    enhanced = pipeline[:-1].transform(noisy)
    match = match_columns(columns[["y", "x"]], truth[["y", "x"]], pipeline["atoms"].spacing_ / 3)
    found, true = columns.iloc[match.found], truth.iloc[match.true]
    good = (found["quality"].to_numpy() & (Quality.EDGE | Quality.FAILED)) == 0
    error = (found[["y", "x"]].to_numpy() - true[["y", "x"]].to_numpy())[good]
    variance = found[["y_err", "x_err"]].to_numpy() ** 2 + found[["y_jitter", "x_jitter"]].to_numpy() ** 2
    table_path, figure_path = _targets(folder, mode, seed)
    with whole_file(table_path) as temporary:
        columns.to_csv(temporary, index=False)
    figure = compare({"recorded": noisy, "enhanced": enhanced, "columns": noisy}, columns)
    save_and_close(figure, figure_path, dpi=120)
    rms, stated = (1e3 * float(np.sqrt(v.mean())) for v in (error**2, variance[good]))
    before, after = psnr(noisy, clean), psnr(enhanced, clean)
    return (
        figure_path.stem,
        f"{before:.1f} dB",
        f"{after:.1f} dB",
        str(len(truth)),
        str(len(columns)),
        f"{match.f1:.3f}",
        f"{rms:.1f} pm",
        f"{stated:.1f} pm",
    )


def _scene(mode: str, seed: int) -> tuple[xr.Dataset, pd.DataFrame]:
    """A crystal with a surface, vacancies and substituted columns, recorded with about 12 electrons per pixel on the
    columns, streaks and jitter.
    """
    from stemkit import NoiseModel, PointwiseNoise, ScanNoise, STEMSynthesizer
    from stemkit.compute import torch_generator
    from stemkit.synthesis import (
        cropped,
        displaced_randomly,
        half_plane,
        lattice,
        planar_cell,
        removed,
        subset,
        substituted,
    )

    noise = NoiseModel(
        contrast=1000.0,
        level=200.0 if mode == "haadf" else 2000.0,
        mode=mode,
        scan=ScanNoise(amplitude=0.05, length=20.0, jitter=0.3),
        pointwise=PointwiseNoise(readout=0.12, gain=0.08 if mode == "haadf" else -0.005),
    )
    generator = torch_generator(seed)
    name, basis, heights = CRYSTALS[seed % len(CRYSTALS)]
    cell = planar_cell(name, basis=basis, amplitude=heights)
    crystal = lattice(cell, (256, 256), spacing=14.0, sigma=2.8, angle=7.0 * seed)
    crystal = displaced_randomly(cropped(crystal, half_plane((60.0, 128.0), 7.0 * seed % 40)), 0.2, generator)
    crystal = substituted(crystal, subset(crystal, 0.03, generator), amplitude=0.6)
    crystal = removed(crystal, subset(crystal, 0.03, generator))
    return STEMSynthesizer(mode=mode, noise=noise, random_state=seed).record(crystal, return_columns=True)
