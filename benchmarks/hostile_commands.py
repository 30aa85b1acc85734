"""Run many command lines over damaged, odd and ordinary files, and count what must not happen.

    python benchmarks/hostile_commands.py --n 300 --seed 0

Each command line is drawn at random from all commands that read images, their options and the files, which are made
here. A command must end with exit code 0, 1, 2 or 141, print no traceback, leave no temporary file and no result that
can't be read, print a result for each file if it ends with 0, and change no file that it did not make. Prints a line
for each violation, and the counts.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import io
import random
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import stemkit
from stemkit.cli import main as stemkit_main

#: A command that takes more CPU time is a violation, s (chosen: the images have at most 48 x 56 pixels).
SLOW = 60.0
COMMANDS = {
    "info": [["--noise"]],
    "calibrate": [["--json"], ["--figure"], ["--figure-format", "svg"]],
    "straighten": [["--figure"], ["--format", "nc"], ["--format", "hspy"]],
    "enhance": [["--format", "png"], ["--format", "nc"], ["--flips"], ["--sampling", "0.5"], ["--weights", "bad.pth"]],
    "detect": [
        ["--no-enhance"], ["--lattice"], ["--figure"], ["--merge"], ["--elliptical"], ["--significance", "50"],
        ["--width", "1e-9"], ["--spacing", "1e9"], ["--format", "parquet"], ["--format", "xyz"],
    ],
}  # fmt: skip
ANY = [
    ["--pixel-size", "0.02"], ["--pixel-size", "1e-300"], ["--region", "0:20,0:20"], ["--region", "0:1,0:1"], ["-r"],
    ["--region", "5:900,0:9"], ["--mode", "bf"], ["--dataset", "1"], ["--dataset", "nothing"],
]  # fmt: skip


def make_files(folder: Path, rng: np.random.Generator) -> None:
    """Ordinary, odd and damaged files."""
    y, x = np.mgrid[:48, :56]
    crystal = np.exp(-((y % 12 - 6) ** 2 + (x % 12 - 6) ** 2) / 10) + rng.normal(0, 0.05, (48, 56))
    image = stemkit.calibrated(crystal.astype(np.float32), pixel_size=0.02)
    for suffix in ("tif", "nc", "hspy", "npy"):
        stemkit.write(image, folder / f"crystal.{suffix}")
    arrays = {
        "constant": np.full((40, 40), 7.0), "tiny": np.ones((1, 1)), "line": np.ones((1, 40)), "none": np.ones((0, 5)),
        "nan": np.where(x > 50, np.nan, crystal), "inf": np.where(x > 50, np.inf, crystal), "huge": 1e300 * crystal,
        "small": 1e-300 * crystal, "bool": crystal > 0.5, "complex": crystal + 1j, "text": np.array(["a", "b"]),
        "stack": np.stack([crystal, -crystal]), "four": np.ones((2, 2, 8, 8)), "int": (100 * crystal).astype(np.int8),
    }  # fmt: skip
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
    for path in list(folder.glob("crystal.*")):
        content = path.read_bytes()
        for i in range(3):
            (folder / f"cut{i}{path.suffix}").write_bytes(content[: int(rng.integers(len(content)))])
            flipped = bytearray(content)
            for _ in range(20):
                flipped[int(rng.integers(min(len(flipped), 4000)))] ^= 1 << int(rng.integers(8))
            (folder / f"flipped{i}{path.suffix}").write_bytes(bytes(flipped))
    (folder / "empty.tif").touch()
    (folder / "wrong.dm4").write_bytes((folder / "crystal.tif").read_bytes())
    (folder / "bad.pth").write_bytes(b"\x80\x04N.")
    (folder / ("n" * 240 + ".npy")).write_bytes((folder / "crystal.npy").read_bytes())
    (folder / "loop.tif").symlink_to(folder / "loop.tif")
    (folder / "sub").mkdir()
    shutil.copy(folder / "crystal.tif", folder / "sub" / "crystal.tif")


def draw(folder: Path, random_: random.Random) -> list[str]:
    """A command line."""
    command = random_.choice(sorted(COMMANDS))
    everything = sorted(map(str, folder.iterdir()))
    ordinary = [path for path in everything if Path(path).stem in ("crystal", "stack", "int", "constant")]
    files = random_.sample(ordinary if random_.random() < 0.4 else everything, random_.choice((1, 1, 2, 4)))
    options = random_.sample(COMMANDS[command] + ANY, random_.choice((0, 1, 2)))
    words = [command, *files, *(word for option in options for word in option)]
    words = [str(folder / word) if word == "bad.pth" else word for word in words]
    return words if command == "info" else [*words, "-o", str(folder.parent / "out")]


def run(words: list[str]) -> tuple[int | str, str, float]:
    """Exit code or escaped exception, what was printed, and CPU time in s."""
    printed, start = io.StringIO(), time.process_time()
    code: int | str
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = stemkit_main(words)
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    return code, printed.getvalue(), time.process_time() - start


def unreadable(out: Path, since: float) -> list[str]:
    """Results written since a time that can't be read."""
    found = []
    for path in out.rglob("*") if out.exists() else ():
        if path.is_file() and path.parent.name != ".stemkit" and path.stat().st_mtime >= since:
            try:
                if path.suffix in (".tif", ".nc", ".hspy", ".png"):
                    stemkit.read(path)
                elif path.suffix == ".csv":
                    pd.read_csv(path)
            except Exception as error:
                if "coloured picture" not in str(error):  # figures are in colour
                    found.append(path.name)
    return found


def lost(words: list[str], code: int | str, printed: str) -> bool:
    """Whether a command that succeeded has printed fewer results than it was given files."""
    files = (
        {Path(word).resolve() for word in words[1 : words.index("-o")] if Path(word).is_file()} if code == 0 else set()
    )
    out = str(Path(words[-1])) + "/"
    return words[0] in ("straighten", "enhance", "detect") and printed.count(f"\n{out}") + printed.startswith(
        out
    ) < len(files)


def violations(
    words: list[str],
    code: int | str,
    printed: str,
    seconds: float,
    since: float,
    out: Path,
    unchanged: Callable[[], bool],
) -> list[str]:
    """What must not happen, but did."""
    left = [p.name for p in out.rglob(".*") if p.is_file() and p.parent.name != ".stemkit"] if out.exists() else []
    found = {
        "escaped exception": not isinstance(code, int),
        "exit code": isinstance(code, int) and code not in (0, 1, 2, 141),
        "traceback": "Traceback" in printed or "Exception ignored" in printed,
        "unexpected error": "stemkit: " in printed and ": unexpected " in printed,
        "failure without a message": code == 1 and "stemkit: " not in printed,
        "temporary file": bool(left),
        "input changed": not unchanged(),
        "unreadable result": bool(unreadable(out, since)),
        "lost result": "-o" in words and lost(words, code, printed),
        "slow": seconds > SLOW,
    }
    return [name for name, wrong in found.items() if wrong]


def state(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha1(b"".join(str(p).encode() + p.read_bytes() for p in files)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=300, help="number of command lines (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="end after this time")
    arguments = parser.parse_args()
    random_, codes, wrong = random.Random(arguments.seed), collections.Counter(), collections.Counter()
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "files"
        folder.mkdir()
        make_files(folder, np.random.default_rng(arguments.seed))
        before = state(folder)
        for _ in range(arguments.n):
            if time.monotonic() > end:
                break
            words = draw(folder, random_)
            since = time.time()
            code, printed, seconds = run(words)
            codes[code] += 1
            out = folder.parent / "out"
            for name in violations(words, code, printed, seconds, since, out, lambda: state(folder) == before):
                wrong[name] += 1
                last = (printed.strip().splitlines() or [""])[0]
                print(f"{name}: stemkit {' '.join(words)}\n    {code}, {seconds:.0f} s: {last}", flush=True)
    print(f"{codes.total()} command lines; exit codes {dict(codes)}; violations {dict(wrong) or 'none'}")


if __name__ == "__main__":
    main()
