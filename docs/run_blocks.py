"""Run the code blocks of the documentation: ``python docs/run_blocks.py [PAGE ...]``.

The blocks of a page run in their order, in one namespace and one folder, which contains small synthetic files under the
names that the pages use, in formats that can be written. What is replaced is listed in ``REPLACED``; commands that
install, plot in windows or take minutes are listed in ``NOT_RUN``. A block whose package is not installed is skipped.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

import numpy as np
import xarray as xr

import stemkit
from stemkit import NoiseModel, PointwiseNoise, ScanNoise
from stemkit.cli import main as run_command

HERE = Path(__file__).parent
PAGES = [HERE.parent / "README.md", *sorted(HERE.glob("*.rst"))]
#: Texts of the pages and what runs instead: formats that can be written, and trainings of one step.
REPLACED = {
    "image.dm4": "image.tif",
    "image.emd": "image.nc",
    "series.emd": "series.nc",
    "SrTiO3.ser": "SrTiO3.nc",
    "fine_tune=True": "fine_tune=True, max_epochs=1, batches_per_epoch=1, batch_size=2",
    "pixel_size=0.0102": "pixel_size=0.02",
    "demo-output": "demo-output --quick",
    'dataset="Fe"': "dataset=0",
}
#: Commands that are not run: they install, need a window or a cluster, take minutes, or are run by their own sessions.
NOT_RUN = ("pip ", "nox", "napari", "stemkit benchmark", "stemkit demo", "stemkit train", "--scheduler")
#: Python blocks that are not run, by a text in them: they need a file of another program, or objects of its session.
NOT_RUN_PYTHON = ("scipy.io.loadmat",)
#: Results that several blocks of a page write; they are removed before each.
WRITTEN = ("enhanced.zarr",)
#: Edge of the images, px; the lattice constant of SrTiO3 is 19.5 px of 0.02 nm.
SIZE = 156
SPACING, PIXEL = 19.5, 0.02
CIF = """data_SrTiO3
_cell_length_a 3.905
_cell_length_b 3.905
_cell_length_c 3.905
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Sr1 Sr 0 0 0
Ti1 Ti 0.5 0.5 0.5
O1 O 0.5 0.5 0
O2 O 0.5 0 0.5
O3 O 0 0.5 0.5
"""


def blocks(path: Path) -> list[tuple[int, str, str]]:
    """Line, language and code of the blocks of a page."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found, i = [], 0
    while i < len(lines):
        line = lines[i]
        directive = re.match(r"( *)\.\. code-block:: (python|console)\s*$", line)
        fence = re.match(r"```(python)?\s*$", line)
        start = i + 1
        if directive:
            indent, i = len(directive[1]), i + 1
            while i < len(lines) and (not lines[i].strip() or len(lines[i]) - len(lines[i].lstrip()) > indent):
                i += 1
            inner = lines[start:i]
            width = min((len(one) - len(one.lstrip()) for one in inner if one.strip()), default=0)
            found.append((start, directive[2], "\n".join(one[width:] for one in inner)))
        elif fence:
            i = lines.index("```", start)
            found.append((start, fence[1] or "console", "\n".join(lines[start:i])))
            i += 1
        else:
            i += 1
    return found


def crystal(seed: int, size: int = SIZE) -> xr.DataArray:
    """An image of SrTiO3 along [001] with noise."""
    y, x = np.mgrid[0:size, 0:size]
    true_image = np.zeros((size, size))
    for offset, height in ((4.0, 1.0), (4.0 + SPACING / 2, 0.5)):
        sites = np.arange(offset, size, SPACING)
        for v in sites:
            for u in sites:
                true_image += height * np.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * 2.4**2))
    model = NoiseModel(pointwise=PointwiseNoise.counted(60.0, background=6.0), scan=ScanNoise(jitter=0.2))
    image = stemkit.calibrated(xr.DataArray(true_image.astype(np.float32), dims=("y", "x")), pixel_size=PIXEL)
    return model.apply(image, random_state=seed).assign_attrs(mode="haadf")


def write_files(folder: Path) -> dict[str, Any]:
    """Write the files that pages read, and return the names that pages share."""
    images = [crystal(seed) for seed in range(3)]
    stemkit.write(images[0], folder / "image.tif")
    for name in ("image.nc", "SrTiO3.nc"):
        stemkit.write(images[0], folder / name)
    np.save(folder / "MoS2.npy", images[1].values)
    (folder / "SrTiO3.cif").write_text(CIF)
    series = xr.concat([one.reset_coords(drop=True) for one in images], "frame")
    stemkit.write(series, folder / "series.nc")
    (folder / "folder").mkdir()
    for k in (0, 1):
        stemkit.write(images[k], folder / "folder" / f"image_{k}.tif")
    stack = xr.concat(images, "image")
    stemkit.write(stack, folder / "night.zarr")
    columns = stemkit.AtomDetector().fit_transform(images[0])
    shared = {"stemkit": stemkit, "image": images[0], "columns": columns, "noisy": stack, "true_images": stack}
    return shared | {"first": images[0], "second": images[1], "my_denoiser": lambda values: values}


def run_page(path: Path) -> list[str]:
    """Run the blocks of a page and return what failed."""
    failed, before = [], os.getcwd()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        try:
            namespace = {"__name__": "__page__"} | write_files(Path(name))
            for line, language, code in blocks(path):
                for result in WRITTEN:
                    shutil.rmtree(result, ignore_errors=True)
                start = time.process_time()
                result = run_python(code, namespace) if language == "python" else run_console(code)
                print(f"{path.name}:{line}: {result or 'ran'} ({time.process_time() - start:.1f} CPU s)", flush=True)
                if result.startswith("failed"):
                    failed.append(f"{path.name}:{line}")
        finally:
            os.chdir(before)
    return failed


def replaced(code: str) -> str:
    for text, instead in REPLACED.items():
        code = code.replace(text, instead)
    return code


def run_python(code: str, namespace: dict[str, Any]) -> str:
    if any(text in code for text in NOT_RUN_PYTHON):
        return "not run"
    try:
        exec(compile(replaced(code), "<page>", "exec"), namespace)
    except ImportError as error:
        return f"skipped: {error}"
    except Exception:
        return "failed\n" + traceback.format_exc()
    return ""


def run_console(code: str) -> str:
    lines = code.splitlines()
    prompted = any(line.startswith("$ ") for line in lines)
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ") or (line.strip() and not prompted)]
    states = []
    for command in commands:
        words = shlex.split(replaced(command), comments=True)
        if words[0] != "stemkit" or any(text in command for text in NOT_RUN):
            states.append("not run")
        elif code := run_command(words[1:]):
            return f"failed with exit code {code}: {shlex.join(words)}"
    return ", ".join(sorted(set(states)))


def main() -> int:
    warnings.simplefilter("ignore")
    pages = [Path(name).resolve() for name in sys.argv[1:]] or PAGES
    failed = [one for page in pages for one in run_page(page)]
    print(f"failed: {', '.join(failed)}" if failed else "all blocks ran")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
