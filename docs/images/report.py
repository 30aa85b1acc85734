"""The picture of a report: ``python docs/images/report.py`` writes ``report.png`` into the folder of this file.

A multislice image (abTEM, frozen phonons) of tungsten diselenide that was not used in training, with counting noise,
streaks and displaced rows. The picture is taken by Chromium.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import stemkit
from stemkit import NoiseModel, PointwiseNoise, ScanNoise
from stemkit.benchmark import simulated
from stemkit.cli import main as run_command

#: Electrons per pixel at the brightest point, above the darkest (chosen).
DOSE = 25.0
#: Edge of the simulated image, px (chosen).
SIZE = 384
#: Width and height of the picture, px (chosen).
PICTURE = (1100, 1500)


def main() -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("Chromium or Chrome is needed to take the picture")
    true_image, _ = simulated("tungsten_diselenide", "haadf", shape=(SIZE, SIZE), pixel_size=0.01)
    level, contrast = float(true_image.min()), float(np.ptp(true_image.values))
    scan = ScanNoise(amplitude=0.03, length=20.0, jitter=0.4)
    noise = NoiseModel(contrast, level, "haadf", scan=scan, pointwise=PointwiseNoise.counted(DOSE, background=2.0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recorded = noise.apply(true_image, random_state=0).assign_attrs(mode="haadf")
        stemkit.write(recorded, folder / "WSe2.nc")
        run_command(["report", str(folder / "WSe2.nc"), "-o", str(folder)])
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--window-size={PICTURE[0]},{PICTURE[1]}", "--virtual-time-budget=20000"]
        target = f"--screenshot={Path(__file__).with_name('report.png')}"
        subprocess.run([browser, *options, target, (folder / "WSe2_report.html").as_uri()], check=True)


if __name__ == "__main__":
    main()
