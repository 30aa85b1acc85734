"""Training on one frame of a series: ``python benchmarks/fine_tuning.py FRAMES.npz [--lr LR] [--epochs N]``.

The file contains an array ``frames`` (n, n_y, n_x) of aligned frames of one specimen. The network is fine-tuned on
synthetic pairs like the first frame; each other frame is then enhanced and correlated with the mean of the remaining
ones, without the first. The mean correlation before and after, and the CPU time of the training, are printed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stemkit import SFINDenoiser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    frames = np.load(arguments.frames)["frames"].astype(float)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"shipped: correlation {correlation(SFINDenoiser(mode='haadf').fit(frames[0]), frames):.4f}")
    denoiser = SFINDenoiser(mode="haadf", fine_tune=True, lr=arguments.lr, max_epochs=arguments.epochs, random_state=0)
    start = time.process_time()
    denoiser.fit(frames[0])
    minutes = (time.process_time() - start) / 60
    print(f"trained: correlation {correlation(denoiser, frames):.4f}, {minutes:.1f} CPU minutes")


def correlation(denoiser: SFINDenoiser, frames: NDArray) -> float:
    """Mean correlation of the enhanced frames with the means of the other frames, without the first."""
    found = []
    for k in range(1, len(frames)):
        others = np.delete(frames, [0, k], axis=0).mean(axis=0)
        found.append(np.corrcoef(np.ravel(denoiser.transform(frames[k])), others.ravel())[0, 1])
    return float(np.mean(found))


if __name__ == "__main__":
    main()
