"""CPU time and memory of the pipeline per stage and per column: ``python benchmarks/pipeline.py``.

Without ``--images`` the images are simulated square lattices of 100 to 100,000 columns, drawn with stemkit's own
rendering and noise. ``--images FOLDER`` analyses every file of a folder that stemkit reads, and ``.npz`` files with
``image`` and the columns fitted by another program (``y_px``, ``x_px``, ``volumes``), or with ``frames``, of which the
first is used. Each image is analysed twice: columns are searched in the recorded image, and in the enhanced one. Each
of these cases runs in its own process with one thread (``OMP_NUM_THREADS`` sets another number).

Times are user and system CPU seconds of the first call in a fresh process, including child processes. ``read`` of a
lattice is the time to draw it. ``memory`` is the peak resident memory above that after the imports (Linux). A case that
needs more than ``--timeout`` CPU seconds is stopped and listed with its current stage.

``good`` are the columns of :func:`stemkit.detection.good_columns`, ``doubles`` those whose nearest neighbour is closer
than half the median nearest-neighbour distance; some crystals, such as those of dumbbells, have such pairs. Where the
columns are known, ``precision``, ``recall`` and ``F1`` count pairs within a third of the known columns' spacing,
``distance`` is the median distance of these pairs in % of the spacing, and ``r`` is the correlation coefficient of the
intensities. Where Atomap is installed, it refines the columns that were found in the same image (``Atomap ms``: CPU ms
per column).

With ``--command`` it measures the whole command ``stemkit detect FILE`` instead of the stages.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the parent process stays small: the peak memory of a child starts at its size
    import numpy as np
    import pandas as pd
    import xarray as xr
    from numpy.typing import NDArray

LATTICES = (100, 1_000, 10_000, 100_000)
#: Spacing and width of the lattices' columns, border without columns, and largest displacement, px (chosen).
SPACING = 14.0
SIGMA = 2.4
BORDER = 14.0
DISPLACED = 0.5
#: Relative standard deviation of the columns' heights (chosen).
HEIGHTS = 0.1
#: Electrons per pixel at the centre of a column (chosen).
DOSE = 30.0
#: Rows of a lattice that are rendered at once, px (chosen).
STRIP = 448
#: Largest number of columns that Atomap measures (chosen): it takes several ms per column.
ATOMAP_MOST = 12_000
STAGES = ("import", "read", "calibrate", "enhance", "detect", "table", "figure", "atomap")
OPTIONAL = ("enhance", "table", "figure", "atomap")
WAYS = ("recorded", "enhanced")
#: Columns of the printed table, and their headings.
HEADINGS = {
    "file": "file",
    "on": "on",
    "shape": "shape",
    "columns": "columns",
    "good": "good",
    "doubles": "doubles",
    "faults": "faults",
    **{f"{stage} s": f"{stage} s" for stage in STAGES[:-1]},
    "ms per column": "ms per column",
    "atomap ms": "Atomap ms",
    "memory MB": "memory MB",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "distance %": "distance %",
    "r": "r",
    "CPU s": "CPU s",
    "wall s": "wall s",
    "peak MB": "peak MB",
    "status": "status",
}
#: Decimals in the table; the numbers of columns have none.
DECIMALS = {
    "memory MB": 0,
    "peak MB": 0,
    "ms per column": 2,
    "atomap ms": 2,
    "precision": 3,
    "recall": 3,
    "f1": 3,
    "distance %": 2,
    "r": 3,
}
#: Longer side of the image, px, up to which a figure has this zoom (chosen).
ZOOMS = ((400, 3), (1024, 2))
#: Colours of columns by their main flag: the first of these that is set.
GOOD = (0, 230, 0)
FLAGS = {
    "FAILED": (255, 40, 40),
    "ODD_SHAPE": (255, 0, 255),
    "BLENDED": (255, 140, 0),
    "SATURATED": (80, 120, 255),
    "FAINT": (0, 230, 230),
    "WIDTH_FIXED": (255, 255, 0),
    "EDGE": (200, 170, 120),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", metavar="FOLDER", help="folders of images, or files")
    parser.add_argument("--lattices", type=int, nargs="+", metavar="N", help=f"columns (default: {LATTICES})")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases whose name contains one of these")
    parser.add_argument("--on", nargs="+", choices=WAYS, default=WAYS, help="where columns are searched")
    parser.add_argument(
        "--stages", nargs="+", choices=OPTIONAL, default=OPTIONAL, help="optional stages (default: all)"
    )
    parser.add_argument("--timeout", type=int, default=300, metavar="S", help="CPU seconds per case (default: 300)")
    parser.add_argument("--csv", type=Path, default=Path("pipeline.csv"), help="where the table is written")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write each image with its columns marked, as PNG")
    parser.add_argument("--command", action="store_true", help="measure the command stemkit detect as a whole")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        return run_case(json.loads(arguments.case), arguments.save)
    print(f"{platform.machine()}, {os.environ.get('OMP_NUM_THREADS', '1')} thread(s), {versions()}\n", flush=True)
    rows: list[dict[str, Any]] = []
    for case in cases(arguments):
        row = command_row(case, arguments) if arguments.command else case_row(case, arguments.timeout)
        rows.append(row)
        print(", ".join(f"{k} {v}" for k, v in rounded(row).items()), file=sys.stderr, flush=True)
        write_csv(rows, arguments.csv)
    print(markdown(rows))
    return None


def versions() -> str:
    names = ("stemkit", "torch", "numpy", "scipy", "atomap")
    return ", ".join(f"{name} {metadata.version(name)}" for name in names if util.find_spec(name))


def cases(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """An image, and the image in which its columns are searched."""
    lattices = arguments.lattices or (() if arguments.images else LATTICES)
    images: list[dict[str, Any]] = [{"name": f"lattice {n:,}", "lattice": n} for n in lattices]
    for path in arguments.images or ():
        files = sorted(p for p in path.iterdir() if p.is_file() and is_readable(p)) if path.is_dir() else [path]
        images += [{"name": p.name, "path": str(p)} for p in files]
    if arguments.only:
        images = [i for i in images if any(part in i["name"] for part in arguments.only)]
    if arguments.figures:
        arguments.figures.mkdir(parents=True, exist_ok=True)
    common = {"stages": list(arguments.stages), "figures": str(arguments.figures) if arguments.figures else None}
    ways = [way for way in WAYS if way in arguments.on and (way == "recorded" or "enhance" in arguments.stages)]
    return [{**image, "on": way, **common} for image in images for way in ways]


def is_readable(path: Path) -> bool:
    from stemkit.io.reading import READABLE

    return path.suffix.lower() in (*READABLE, ".npz") and not path.name.startswith(".")


# --- one case, in the process that starts it ---------------------------------------------------------------------


def case_row(case: dict[str, Any], timeout: int) -> dict[str, Any]:
    """The row of a case: what its process printed until it ended or was stopped."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (timeout, timeout + 5))

    done = subprocess.run(
        [sys.executable, __file__, "--case", json.dumps(case)],
        env={"OMP_NUM_THREADS": "1", **os.environ},
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )
    row: dict[str, Any] = {"file": case["name"], "on": case["on"]}
    stage = ""
    for line in done.stdout.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            values = json.loads(line)
            stage = values.pop("stage", stage)
            row |= values
    if done.returncode == 0:
        row["status"] = "done"
    elif done.returncode < 0:
        over = done.returncode in (-24, -9)  # SIGXCPU, and SIGKILL at the hard limit
        row["status"] = f"over {timeout} s in {stage}" if over else f"ended by signal {-done.returncode} in {stage}"
    else:
        row["status"] = f"failed in {stage}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    return row


def command_row(case: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """CPU time and peak memory of ``stemkit detect`` as a whole."""
    row: dict[str, Any] = {"file": case["name"], "on": case["on"]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(case.get("path", "lattice.npz"))
        if path.suffix == ".npz":
            path = Path(folder) / "image.nc"
            save = [sys.executable, __file__, "--case", json.dumps(case), "--save", str(path)]
            subprocess.run(save, check=True, capture_output=True)
        out = Path(folder) / "out"
        words = [sys.executable, "-m", "stemkit", "detect", str(path), "-o", str(out)]
        words += ["--no-enhance"] if case["on"] == "recorded" else []
        start = time.perf_counter()
        process = subprocess.Popen(
            words,
            env={"OMP_NUM_THREADS": "1", **os.environ},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (arguments.timeout, arguments.timeout + 5)),
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        row |= {"CPU s": usage.ru_utime + usage.ru_stime, "wall s": time.perf_counter() - start}
        row["peak MB"] = usage.ru_maxrss / 1024
        tables = list(out.glob("*_columns.csv"))
        row["columns"] = sum(1 for _ in tables[0].open()) - 1 if tables else None
    row["status"] = {0: "done", -24: f"over {arguments.timeout} s"}.get(process.returncode, "failed")
    return row


# --- one case, in its own process --------------------------------------------------------------------------------


def cpu_seconds() -> float:
    """User and system time of this process and of the children it waited for."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_memory(*, anew: bool = False) -> float:
    """Highest resident memory since it was last reset, MB (Linux)."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) / 1024


def tell(**values: Any) -> None:
    print(json.dumps(values), flush=True)


@contextlib.contextmanager
def stage(name: str) -> Any:
    """Report the name of a block before, and its CPU time after it."""
    tell(stage=name)
    start = cpu_seconds()
    yield
    tell(**{f"{name} s": cpu_seconds() - start})


def run_case(case: dict[str, Any], save: Path | None) -> None:
    warnings.simplefilter("ignore")
    tell(stage="import")
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot  # noqa: F401
    import sklearn  # noqa: F401
    import torch  # noqa: F401

    import stemkit
    from stemkit import AtomDetector, NoiseCalibrator, SFINDenoiser
    from stemkit.detection.exports import write_columns  # noqa: F401

    tell(**{"import s": cpu_seconds()})
    if save:
        stemkit.write(load(case)[0], save)
        return
    before = peak_memory(anew=True)
    with stage("read"):
        image, known = load(case)
    if "lattice" in case:  # the memory for drawing the lattice is not that of the pipeline
        before = peak_memory(anew=True) - image.nbytes / 2**20
    tell(shape="x".join(map(str, image.shape)))
    with stage("calibrate"):
        calibrator = NoiseCalibrator()
        shown = calibrator.fit_transform(image)
    tell(faults=" ".join(calibrator.diagnostics_[0]["faults"]))
    if case["on"] == "enhanced":
        with stage("enhance"):
            shown = SFINDenoiser().fit_transform(shown)
        tell(**{"memory MB": peak_memory() - before})
    start = cpu_seconds()
    with stage("detect"):
        table = AtomDetector().fit_transform(shown)
    seconds = cpu_seconds() - start
    tell(**{"memory MB": peak_memory() - before, "ms per column": 1e3 * seconds / len(table) if len(table) else None})
    tell(**described(table), **compared(table, known))
    write_results(table, shown, case)
    tell(**{"memory MB": peak_memory() - before})
    if case["figures"]:
        save_overlay(image, table, Path(case["figures"]), f"{case['name']}".replace(" ", "_"), case["on"])
    if "atomap" in case["stages"] and 2 < len(table) <= ATOMAP_MOST and has_atomap():
        measure_with_atomap(image, table)


def write_results(table: pd.DataFrame, shown: xr.DataArray, case: dict[str, Any]) -> None:
    """The table and the figure of ``stemkit detect``."""
    from stemkit.cli.figures import save_and_close
    from stemkit.cli.overlay import detection_figure
    from stemkit.detection.exports import write_columns

    with tempfile.TemporaryDirectory() as folder:
        if "table" in case["stages"]:
            with stage("table"):
                write_columns(table, Path(folder) / "columns.csv", image=shown)
        if "figure" in case["stages"]:
            with stage("figure"):
                save_and_close(detection_figure(shown, table), Path(folder) / "columns.png")


def has_atomap() -> bool:
    return util.find_spec("atomap") is not None and util.find_spec("hyperspy") is not None


def measure_with_atomap(image: xr.DataArray, table: pd.DataFrame) -> None:
    """Atomap's refinement from the columns that were found, CPU ms per column."""
    import numpy as np
    from columns import atomap_positions

    places = table[["y_px", "x_px"]].to_numpy()
    tell(stage="atomap")
    start = cpu_seconds()
    try:
        atomap_positions(image.values.astype(np.float64), places)
    except Exception:  # the row is complete without Atomap, which may raise anything
        return
    tell(**{"atomap ms": 1e3 * (cpu_seconds() - start) / len(places)})


# --- images ------------------------------------------------------------------------------------------------------


def load(case: dict[str, Any]) -> tuple[xr.DataArray, dict[str, NDArray] | None]:
    """An image, and its columns if they are known: ``places`` (y, x), px, and ``intensity``."""
    import stemkit

    if "lattice" in case:
        return lattice(case["lattice"])
    path = Path(case["path"])
    if path.suffix == ".npz":
        return load_npz(path)
    image = stemkit.read(path)
    return (image if image.ndim == 2 else image[0]), None


def load_npz(path: Path) -> tuple[xr.DataArray, dict[str, NDArray] | None]:
    import numpy as np
    import xarray as xr

    import stemkit

    with np.load(path) as file:
        data = {name: file[name] for name in file}
    values = data["image"] if "image" in data else data["frames"][0]
    image = xr.DataArray(values, dims=("y", "x"), attrs={"mode": "haadf", "source": path.name})
    if "pixel_size_nm" in data:
        image = stemkit.calibrated(image, pixel_size=float(data["pixel_size_nm"]))
    if "y_px" not in data:
        return image, None
    return image, {"places": np.column_stack([data["y_px"], data["x_px"]]), "intensity": data["volumes"]}


def lattice(n_columns: int) -> tuple[xr.DataArray, dict[str, NDArray]]:
    """The recorded image of a square lattice of about ``n`` columns, and the columns."""
    import numpy as np
    import xarray as xr

    from stemkit import BackgroundNoise, NoiseModel, PointwiseNoise, ScanNoise

    rng = np.random.default_rng(0)
    side = round(n_columns**0.5)
    size = int(2 * BORDER + SPACING * (side - 1)) + 1
    sites = BORDER + SPACING * np.stack(np.meshgrid(*2 * [np.arange(side)], indexing="ij"), axis=-1).reshape(-1, 2)
    places = sites + rng.uniform(-DISPLACED, DISPLACED, sites.shape)
    heights = 1 + HEIGHTS * rng.standard_normal(len(places))
    true_image = rendered(places, heights, size)
    noise = NoiseModel(
        contrast=1000.0,
        level=200.0,
        background=BackgroundNoise(amplitude=0.03),
        scan=ScanNoise(amplitude=0.02, jitter=0.2),
        pointwise=PointwiseNoise.counted(DOSE, background=0.1 * DOSE),
    )
    image = xr.DataArray(noise.level + noise.contrast * true_image, dims=("y", "x"), attrs={"mode": "haadf"})
    return noise.apply(image, random_state=0).astype(np.float32), {"places": places, "intensity": heights}


def rendered(places: NDArray, heights: NDArray, size: int) -> NDArray[np.float64]:
    """The sum of the columns, some rows at a time."""
    import numpy as np
    import torch

    from stemkit.synthesis import Columns
    from stemkit.synthesis.rendering import render

    image = np.empty((size, size))
    for start in range(0, size, STRIP):
        stop = min(start + STRIP, size)
        near = (places[:, 0] > start - 9 * SIGMA) & (places[:, 0] < stop + 9 * SIGMA)
        y, x, amplitude = (torch.as_tensor(v[near])[None] for v in (places[:, 0] - start, places[:, 1], heights))
        none = torch.zeros_like(y, dtype=torch.long)
        columns = Columns(
            y=y,
            x=x,
            amplitude=amplitude,
            sigma=torch.full_like(y, SIGMA),
            species=none,
            present=torch.ones_like(y, dtype=torch.bool),
            defect=none,
            spacing=torch.tensor([SPACING]),
        )
        image[start:stop] = render(columns, (stop - start, size))[0].numpy()
    return image


# --- results -----------------------------------------------------------------------------------------------------


def described(table: pd.DataFrame) -> dict[str, int]:
    """Numbers of columns, of good ones, and of those that are too close to another one."""
    import numpy as np

    from stemkit.detection import good_columns
    from stemkit.statistics import nearest_distances

    distance = nearest_distances(table[["y_px", "x_px"]].to_numpy())
    doubles = int((distance < 0.5 * np.median(distance)).sum()) if len(table) > 1 else 0
    return {"columns": len(table), "good": len(good_columns(table)), "doubles": doubles}


def compared(table: pd.DataFrame, known: dict[str, NDArray] | None) -> dict[str, float]:
    """The columns compared with the known ones."""
    if known is None:
        return {}
    import numpy as np

    from stemkit.metrics import match_columns
    from stemkit.statistics import median_spacing

    places = table[["y_px", "x_px"]].to_numpy()
    spacing = median_spacing(known["places"])
    match = match_columns(places, known["places"], spacing / 3)
    figures = {"precision": match.precision, "recall": match.recall, "f1": match.f1}
    if len(match.found) > 2:
        distance = np.hypot(*(places[match.found] - known["places"][match.true]).T)
        intensity = table["intensity"].to_numpy()[match.found]
        figures["distance %"] = 100 * float(np.median(distance)) / spacing
        figures["r"] = float(np.corrcoef(intensity, known["intensity"][match.true])[0, 1])
    return figures


def save_overlay(image: xr.DataArray, table: pd.DataFrame, folder: Path, name: str, on: str) -> None:
    """The recorded image with a circle around each column, coloured by its main flag, and without circles."""
    import numpy as np
    from PIL import Image, ImageDraw

    from stemkit.detection import Quality
    from stemkit.statistics import median_spacing

    colors = [GOOD, *FLAGS.values()]
    n_grays = 256 - len(colors)  # the picture has a palette: the greys, then the colours
    low, high = np.quantile(image.values, (0.002, 0.998))
    signal = (image.values.astype(np.float64) - low) / max(high - low, 1e-12)
    gray = np.clip(n_grays * signal, 0, n_grays - 1).astype(np.uint8)
    zoom = next((zoom for most, zoom in ZOOMS if max(image.shape) <= most), 1)
    picture = Image.fromarray(gray.repeat(zoom, axis=0).repeat(zoom, axis=1))
    levels = [(int(255 * level / (n_grays - 1)),) * 3 for level in range(n_grays)]
    picture.putpalette([value for color in levels + colors for value in color])
    picture.save(folder / f"{name}.png", optimize=True)
    places = table[["y_px", "x_px"]].to_numpy()
    spacing = median_spacing(places, 10.0)
    radius = float(np.clip(0.2 * spacing * zoom, 3, 9))
    draw = ImageDraw.Draw(picture)
    for (y, x), quality in zip(zoom * (places + 0.5) - 0.5, table["quality"], strict=True):
        flag = next((i for i, name in enumerate(FLAGS, start=1) if quality & Quality[name]), 0)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=n_grays + flag)
    picture.save(folder / f"{name}_{on}.png", optimize=True)


# --- the table ---------------------------------------------------------------------------------------------------


def rounded(row: dict[str, Any]) -> dict[str, str]:
    """The row as printed, empty where a value is missing."""

    def text(name: str, value: Any) -> str:
        if value is None:
            return ""
        return f"{value:.{DECIMALS.get(name, 1)}f}" if isinstance(value, float) else str(value)

    return {name: text(name, value) for name, value in row.items()}


def printed(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of one set of headings, without those that no row has."""
    names = [*HEADINGS, *(name for row in rows for name in row if name not in HEADINGS)]
    used = [name for name in dict.fromkeys(names) if any(row.get(name) not in (None, "") for row in rows)]
    return [{HEADINGS.get(n, n): rounded(row).get(n, "") for n in used} for row in rows]


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    import csv

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = printed(rows)
        writer = csv.DictWriter(file, table[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def markdown(rows: list[dict[str, Any]]) -> str:
    from tabulate import tabulate

    return str(tabulate(printed(rows), headers="keys", tablefmt="github", disable_numparse=True))


if __name__ == "__main__":
    main()
