"""Commands for many files, and commands that are killed: parts of ``benchmarks/scale.py``."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import numpy as np

__all__ = ["killed_enhance", "killed_train", "many_files"]


def many_files(folder: Path, images: Path) -> list[dict]:
    """One command for a folder of images, one of which is damaged: its memory, and its messages and log."""
    out, n = folder / "out", len(list(images.iterdir()))
    damaged = images / f"{n // 2:04d}.tif"
    damaged.write_bytes(damaged.read_bytes()[:300])
    rows, step = [], max(1, n // 5)
    with (folder / "messages").open("w") as file:  # a pipe that is not read would stop the command
        process = _started("enhance", images, "-o", out, stderr=file)
    while process.poll() is None:
        done = len(list(out.glob("*.tif"))) if out.exists() else 0
        if done > len(rows) * step:
            with contextlib.suppress(StopIteration):  # the process has ended
                rows.append({"files done": done, "MiB": _memory(process.pid)})
        time.sleep(0.02)
    printed = (folder / "messages").read_text().splitlines()
    messages = [line.replace(str(folder), "") for line in printed if damaged.name in line or "failed" in line]
    results, log = len(list(out.glob("*.tif"))), (out / ".stemkit" / "enhance.log").read_text().splitlines()
    print(
        f"exit code {process.returncode}, {results} results of {n} files, {len(log)} lines of log", *messages, sep="\n"
    )
    print(*(line[:300].replace(str(folder), "") for line in (*log[:6], "...", *log[-2:])), sep="\n")
    return rows


def killed_enhance(folder: Path, path: Path, n: int, n_kills: int) -> dict:
    """A stack of ``n`` images, whose command is killed at random moments and repeated.

    A block was made again if the time of its change is another one.
    """
    out, unfinished = folder / "out.zarr", folder / ".out.zarr.unfinished"
    _run("enhance", path, "-o", folder / "undisturbed.zarr")
    rng, marked, kept, lost, again = np.random.default_rng(0), unfinished / "finished", [0], [], 0
    written: dict[int, int] = {}
    for _ in range(n_kills):
        process, first = _started("enhance", path, "-o", out), kept[-1]
        # one of four kills is before the first block of its run, the others within or after some blocks
        more = max(0, int(rng.integers(-2, 2 * n // n_kills)))
        while process.poll() is None and len(_numbers(marked)) < first + more:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1 if more else 5))
        process.kill()
        process.wait()
        done, now = _numbers(marked), _times_of_blocks(unfinished / out.name)
        again += sum(now[i] != time_before for i, time_before in written.items())
        written = {i: now[i] for i in done}
        kept.append(len(done))
        lost.append(len(set(now) - done))
    _run("enhance", path, "-o", out)
    now = _times_of_blocks(out)
    again += sum(now[i] != time_before for i, time_before in written.items())
    return {
        "command": f"enhance, {n} images",
        "kills": n_kills,
        "finished at each kill": " ".join(map(str, kept[1:])),
        "finished made again": again,
        "begun and lost, at most": max(lost),
        "same result": _chunks(out) == _chunks(folder / "undisturbed.zarr"),
        "files left behind": sum(p.name.startswith(".out") for p in folder.iterdir()),
    }


def killed_train(folder: Path, n_kills: int, epochs: int = 8) -> dict:
    """A training that is killed at random moments and repeated."""
    from safetensors.numpy import load_file

    options = f"--epochs {epochs} --batches 4 --crops 32 --batch-size 2 --channels 4 --blocks 1 --judged 0".split()
    out, whole = folder / "killed", folder / "undisturbed"
    _run("train", "-o", whole, *options)
    rng, kept, done = np.random.default_rng(0), [], 0
    checkpoint = out / ".training" / "sfin-general.checkpoint"
    for _ in range(n_kills):
        process = _started("train", "-o", out, *options)
        wanted = done + int(rng.integers(1, epochs // n_kills + 1))
        while process.poll() is None and done < wanted:
            time.sleep(0.1)
            done = _epochs(checkpoint)
        time.sleep(rng.uniform(0, 2))
        process.kill()
        process.wait()
        done = _epochs(checkpoint)
        kept.append(done)
    _run("train", "-o", out, *options)
    made, expected = (load_file(f / "sfin-general.safetensors") for f in (out, whole))
    return {
        "command": f"train, {epochs} epochs",
        "kills": n_kills,
        "finished at each kill": " ".join(map(str, kept)),
        "same result": made.keys() == expected.keys() and all((made[k] == expected[k]).all() for k in made),
        "files left behind": sum(p.name != ".stemkit" for p in out.glob(".*")),
    }


def _started(*arguments: object, stderr: IO[str] | int = subprocess.PIPE) -> subprocess.Popen:
    command = [sys.executable, "-m", "stemkit", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, text=True)


def _run(*arguments: object) -> None:
    process = _started(*arguments)
    messages = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"the command failed: {messages}")


def _numbers(path: Path) -> set[int]:
    """Numbers of the finished blocks; the last line may be incomplete."""
    return {int(line) for line in path.read_text().split("\n")[:-1]} if path.exists() else set()


def _times_of_blocks(folder: Path) -> dict[int, int]:
    """When the pixels of each image were written, by its number."""
    return {int(p.name): max(f.stat().st_mtime_ns for f in p.rglob("*")) for p in (folder / "0" / "c").glob("*")}


def _chunks(folder: Path) -> dict[Path, bytes]:
    """All arrays of a Zarr folder."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("c/**/*") if p.is_file()}


def _epochs(checkpoint: Path) -> int:
    """Number of epochs in a checkpoint."""
    import torch

    return len(torch.load(checkpoint, weights_only=True)["history"]) if checkpoint.exists() else 0


def _memory(pid: int) -> float:
    """Memory of a process, MiB; StopIteration if it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(int(next(line.split()[1] for line in lines if line.startswith("VmRSS:"))) / 1024, 1)
