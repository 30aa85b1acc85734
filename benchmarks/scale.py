"""Memory, CPU time and throughput of long stacks, large images and long runs, and what a kill loses.

    python benchmarks/scale.py                       # all parts, small
    python benchmarks/scale.py --only frames --frames 10 1000 --frame-size 1024
    python benchmarks/scale.py --only large --sizes 1024 2048 4096 8192 16384
    python benchmarks/scale.py --only files --images 500
    python benchmarks/scale.py --only kills --kills 10

Each case runs in a fresh process. Peak memory is that of the process (VmHWM of Linux), above that after the imports and
a first small image.
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scale_commands import killed_enhance, killed_train, many_files

PARTS = (
    "frames",
    "series",
    "all_frames",
    "large",
    "in_memory",
    "columns",
    "throughput",
    "workers",
    "many",
    "files",
    "kills",
)
#: Distance of the columns of the drawn square lattice, px.
SPACING = 20.0
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--frames", nargs="+", type=int, default=[10, 100], help="lengths of stacks")
    parser.add_argument("--frame-size", type=int, default=512, help="edge of the frames, px")
    parser.add_argument("--tiny", action="store_true", help="enhance stacks by a network of two channels, for memory")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1024, 2048, 4096], help="edges of large images, px")
    parser.add_argument("--images", type=int, default=500, help="number of small images or files in one process")
    parser.add_argument("--kills", type=int, default=10, help="number of kills of a command")
    parser.add_argument("--csv", type=Path, metavar="FOLDER", help="write the tables to this folder")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave large images and their results here")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        name, options = json.loads(arguments.case)
        print(json.dumps(CASES[name](**options)))
        return
    for part in arguments.only:
        table = pd.DataFrame(TABLES[part](arguments)).convert_dtypes()
        print(f"\n{part}\n{table.to_string(index=False)}", flush=True)
        if arguments.csv:
            arguments.csv.mkdir(parents=True, exist_ok=True)
            table.to_csv(arguments.csv / f"scale_{part}.csv", index=False)


# --- tables ------------------------------------------------------------------------------------------------------


def frames(arguments: argparse.Namespace) -> list[dict]:
    """``stemkit enhance stack.zarr -o out.zarr`` for stacks of different lengths."""
    return [measured("enhance_stack", n=n, size=arguments.frame_size, tiny=arguments.tiny) for n in arguments.frames]


def series(arguments: argparse.Namespace) -> list[dict]:
    """``stemkit average`` and ``stemkit detect`` for series of different lengths, read at once and frame by frame."""
    return [
        measured("of_series", command=command, n=n, size=arguments.frame_size, lazy=lazy)
        for command in ("average --fast --whole", "detect --no-enhance")
        for lazy in (False, True)
        for n in arguments.frames
    ]


def all_frames(arguments: argparse.Namespace) -> list[dict]:
    """The aligned frames of a series, and columns measured in all of its frames, which are read frame by frame."""
    return [
        measured("of_series", command=command, n=n, size=arguments.frame_size, lazy=True)
        for command in ("average --fast --whole --frames", "detect --no-enhance --all-frames")
        for n in arguments.frames
    ]


def large(arguments: argparse.Namespace) -> list[dict]:
    """One image with faulty pixels, enhanced by the command; its result is read again and checked."""
    keep = None if arguments.keep is None else str(arguments.keep)
    return [measured("large_image", size=size, keep=keep) for size in arguments.sizes]


def in_memory(arguments: argparse.Namespace) -> list[dict]:
    """One image, enhanced with all of its result in memory."""
    return [measured("one_image", step="enhance", size=size) for size in arguments.sizes]


def columns(arguments: argparse.Namespace) -> list[dict]:
    """The columns of one image, found in the recorded pixels and measured."""
    return [measured("one_image", step="columns", size=size) for size in arguments.sizes]


def throughput(arguments: argparse.Namespace) -> list[dict]:
    """The same images by the network alone, in memory, lazily and by the command, in turn."""
    return measured("rates", n=6, size=arguments.frame_size)["rows"]


def workers(arguments: argparse.Namespace) -> list[dict]:
    """The command with one and with two workers."""
    return [measured("enhance_stack", n=16, size=arguments.frame_size, workers=n) for n in (1, 2)]


def many(arguments: argparse.Namespace) -> list[dict]:
    """Memory of one process after some of many small images, enhanced and measured."""
    return measured("many_images", n=arguments.images, size=64)["rows"]


def files(arguments: argparse.Namespace) -> list[dict]:
    """One command for a folder of small files, one of which is damaged."""
    import stemkit

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (images := folder / "images").mkdir()
        for i in range(arguments.images):
            image = stemkit.calibrated(_image(64, i), pixel_size=0.01).assign_attrs(mode="haadf")
            stemkit.write(image, images / f"{i:04d}.tif")
        return many_files(folder, images)


def kills(arguments: argparse.Namespace) -> list[dict]:
    """Commands that are killed at random moments and repeated, against undisturbed ones."""
    with tempfile.TemporaryDirectory() as name:
        folder, n = Path(name), 40
        return [
            killed_enhance(folder, _stack(folder / "stack.zarr", n, 128), n, arguments.kills),
            killed_train(folder, max(1, arguments.kills // 3)),
        ]


TABLES = {
    f.__name__: f
    for f in (frames, series, all_frames, large, in_memory, columns, throughput, workers, many, files, kills)
}


def measured(case: str, **options: object) -> dict:
    """The result of a case in a fresh process."""
    command = [sys.executable, __file__, "--case", json.dumps([case, options])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# --- cases, each in its process ----------------------------------------------------------------------------------


def enhance_stack(n: int, size: int, workers: int = 1, tiny: bool = False) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        path = _stack(Path(folder) / "stack.zarr", n, size)
        _warm_up(size)
        weights = ["--weights", str(_tiny_weights(Path(folder)))] if tiny else []
        with _Measured() as found:
            _command(path, Path(folder) / "out.zarr", "--workers", str(workers), *weights)
    row = {
        "how": f"command, {workers} worker(s)" + ", tiny network" * tiny,
        "frames": n,
        "px": size,
        **found.row(n * size**2),
    }
    if workers > 1:  # memory and CPU time are those of the process that prints
        row |= dict.fromkeys(["peak MiB", "process MiB", "CPU s", "CPU us/px"])
    return row


def _tiny_weights(folder: Path) -> Path:
    """A file with random weights of a small network."""
    from stemkit.denoising import save_weights
    from stemkit.denoising.weights import OUTPUTS, NetworkInfo, build

    info = NetworkInfo(n_channels=2, n_blocks=1, outputs=OUTPUTS)
    return save_weights(build(info), info, folder / "tiny.safetensors")


def of_series(command: str, n: int, size: int, lazy: bool) -> dict:
    """Commands that align the frames of a series, whatever the size of its file."""
    from stemkit.cli import common, main

    common.MAX_BYTES_IN_MEMORY = 0 if lazy else 2**62
    verb, *options = command.split()
    with tempfile.TemporaryDirectory() as folder:
        first, path = (_stack(Path(folder) / name, k, size) for name, k in (("first.zarr", 2), ("series.zarr", n)))
        with contextlib.redirect_stdout(io.StringIO()):
            main([verb, str(first), "-o", folder, "-q", *options])  # imports and compiles
            with _Measured() as found:
                code = main([verb, str(path), "-o", folder, "-q", *options])
        if code:
            raise SystemExit("the command failed")
    how = "frame by frame" if lazy else "at once"
    return {"command": command, "read": how, "frames": n, "px": size, **found.row(n * size**2)}


def rates(n: int, size: int) -> dict:
    """CPU time per image of the ways to enhance it, in turn, because the speed of a shared computer varies."""
    import dask

    import stemkit

    times: dict[str, list[float]] = {way: [] for way in ("network alone", "in memory", "lazily", "command")}
    with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="synchronous"):
        path = _stack(Path(folder) / "stack.zarr", n, size)
        _warm_up(size)
        lazy, images = stemkit.read(path, lazy=True), stemkit.read(path)
        denoiser = stemkit.SFINDenoiser().fit(images)
        results, network = denoiser.transform(lazy), _network(denoiser)
        command = _command_by_image(path, Path(folder) / "out.zarr")
        next(command)  # the first image contains the start
        for i in range(1, n):
            times["network alone"].append(_cpu_of(partial(network, images[i].values)))
            times["in memory"].append(_cpu_of(partial(denoiser.transform, images[i])))
            times["lazily"].append(_cpu_of(results[i].compute))
            times["command"].append(_cpu_of(partial(next, command)))
    alone = times["network alone"]
    rows = []
    for way, seconds in times.items():
        ratio = statistics.median(s / a for s, a in zip(seconds, alone, strict=True))
        rows.append(
            {"how": way, "px": size, "CPU s/image": round(statistics.median(seconds), 3), "ratio": round(ratio, 2)}
        )
    return {"rows": rows}


def _network(denoiser):  # type: ignore[no-untyped-def]
    """The network of a denoiser as a function of pixels, on their own grid and without any other step."""
    import torch

    from stemkit.denoising.inference import for_inference, run_network

    network = for_inference(denoiser.net_, torch.device("cpu"))
    multiple, device = denoiser.info_.multiple, network.device

    def maps(values: np.ndarray) -> None:
        run_network(network, (values - values.min()) / np.ptp(values), multiple=multiple, device=device)

    return maps


def _command(path: Path, out: Path, *options: str) -> None:
    from stemkit.cli import main as command

    with contextlib.redirect_stdout(io.StringIO()):
        code = command(["enhance", str(path), "-o", str(out), "-q", *options])
    if code:
        raise SystemExit("the command failed")


def _command_by_image(path: Path, out: Path):  # type: ignore[no-untyped-def]
    """The command, which waits after each image until the next one is asked for."""
    import threading

    from stemkit.cli import main as command
    from stemkit.cli.unfinished import Unfinished

    wanted, made, mark = threading.Semaphore(0), threading.Semaphore(0), Unfinished.mark

    def mark_and_wait(self, block):  # type: ignore[no-untyped-def]
        mark(self, block)
        made.release()
        wanted.acquire()

    Unfinished.mark = mark_and_wait  # type: ignore[method-assign]
    arguments = ["enhance", str(path), "-o", str(out), "-q"]
    threading.Thread(target=command, args=(arguments,), daemon=True).start()
    while True:
        made.acquire()
        yield
        wanted.release()


def one_image(step: str, size: int) -> dict:
    import stemkit

    image = stemkit.calibrated(_image(size, 0), pixel_size=0.01).assign_attrs(mode="haadf")
    _warm_up(256)
    if step == "enhance":
        denoiser = stemkit.SFINDenoiser().fit(image)
        with _Measured() as found:
            denoiser.transform(image)
        return {"step": step, "px": size, **found.row(size**2)}
    with _Measured() as found:
        noisy = stemkit.NoiseCalibrator().fit_transform(image)
        table = stemkit.AtomDetector().fit_transform(noisy)
    return {
        "step": step,
        "px": size,
        **found.row(size**2),
        "columns": len(table),
        "drawn": round((size / SPACING) ** 2),
    }


def large_image(size: int, keep: str | None = None) -> dict:
    """Reading, enhancement and writing; the memory of the image itself is subtracted."""
    import stemkit

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(keep or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        image = stemkit.calibrated(_image(size, 0), pixel_size=0.01).assign_attrs(mode="haadf")
        places = np.random.default_rng(1).integers(0, image.size, max(1, image.size // 10**6))
        image.values.flat[places] = 1e5
        path, pixels = stemkit.write(image, folder / f"image_{size}.zarr", overwrite=True), image.nbytes
        del image
        _warm_up(256)
        out = folder / f"enhanced_{size}.zarr"
        with _Measured() as found:
            _command(path, out, "--overwrite")
        found.peak -= pixels
        row = {"px": size, "faulty": len(places), **found.row(size**2)}
        print(row, file=sys.stderr, flush=True)
        return row | _checked(path, out)


def _checked(path: Path, out: Path) -> dict:
    """Of a result that is read again: its pixel size, and the difference of a tile from that of the network alone."""
    import torch

    import stemkit
    from stemkit.denoising.inference import _maps_of, for_inference, tile_slices
    from stemkit.denoising.units import from_network, network_units, to_network
    from stemkit.images.pixel_size import mean_pixel_size
    from stemkit.pixels.filled_image import FilledImage

    result, image = stemkit.read(out, lazy=True), FilledImage.of(stemkit.read(path).values)
    denoiser = stemkit.SFINDenoiser().fit(np.eye(64))
    info, network = denoiser.info_, for_inference(denoiser.net_, torch.device("cpu"))
    units = network_units(image, info)
    tiles = tile_slices(image.shape[0], denoiser.tile_size, info.multiple)
    middle = len(tiles) // 2
    tile = tiles[middle]
    # the part of the tile that no other tile contributes to
    first = tiles[middle - 1].stop if middle > 0 else 0
    last = tiles[middle + 1].start if middle + 1 < len(tiles) else tile.stop
    own, alone = slice(first, last), slice(first - tile.start, last - tile.start)

    def to_input(part: np.ndarray) -> np.ndarray:
        return to_network(part.astype(np.float64), "enhance", 1, *units)

    raw = _maps_of(network, image, to_input, (tile, tile), info.multiple, network.device)
    expected = from_network(raw[info.outputs.index("enhance")].numpy()[alone, alone], "enhance", 1, *units)
    parts = [result[start : start + 1024].values for start in range(0, len(result), 1024)]
    low, high = min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)
    written = np.concatenate(parts)[own, own]
    return {
        "pixel size nm": round(mean_pixel_size(result), 6),
        "not finite": sum(int((~np.isfinite(part)).sum()) for part in parts),
        "difference / range": float(f"{np.abs(written - expected).max() / (high - low):.1e}"),
    }


def many_images(n: int, size: int) -> dict:
    import stemkit

    rows, denoiser, detector = [], stemkit.SFINDenoiser(), stemkit.AtomDetector()
    for i in range(n + 1):
        if i % max(1, n // 5) == 0:
            rows.append({"images": i, "MiB": round(_status("VmRSS") / MIB, 1)})
        image = _image(size, i).assign_attrs(mode="haadf")
        detector.fit_transform(denoiser.fit_transform(image))
    return {"rows": rows}


CASES = {f.__name__: f for f in (enhance_stack, of_series, rates, one_image, large_image, many_images)}


# --- measurement -------------------------------------------------------------------------------------------------


class _Measured:
    """CPU time, elapsed time and peak memory of a block."""

    def __enter__(self) -> "_Measured":
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self.before = _status("VmRSS")
        self.cpu, self.wall = _cpu(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu, self.wall = _cpu() - self.cpu, time.perf_counter() - self.wall
        self.process = _status("VmHWM")
        self.peak = self.process - self.before

    def row(self, pixels: int) -> dict:
        return {
            "peak MiB": round(self.peak / MIB),
            "process MiB": round(self.process / MIB),
            "CPU s": round(self.cpu, 1),
            "CPU us/px": round(1e6 * self.cpu / pixels, 2),
            "elapsed s": round(self.wall, 1),
        }


def _cpu() -> float:
    """CPU time of this process and of the workers that have ended, s."""
    import os

    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _cpu_of(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{key}:"))) * 1024


def _warm_up(size: int) -> None:
    """Import and compile what the block uses."""
    import stemkit

    image = _image(min(size, 256), 0).assign_attrs(mode="haadf")
    stemkit.AtomDetector().fit_transform(stemkit.SFINDenoiser().fit_transform(image))


def _image(size: int, seed: int):  # type: ignore[no-untyped-def]
    """A square lattice with noise, in single precision, drawn in strips."""
    import xarray as xr

    rng, values = np.random.default_rng(seed), np.empty((size, size), dtype=np.float32)
    columns = np.exp(-0.5 * (((np.arange(size) + SPACING / 2) % SPACING - SPACING / 2) / 3.5) ** 2).astype(np.float32)
    for start in range(0, size, 512):
        part = values[start : start + 512]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32) * 80 + 300
        part += 1000 * np.multiply.outer(columns[start : start + 512], columns)
    return xr.DataArray(values, dims=("y", "x"))


def _stack(path: Path, n: int, size: int) -> Path:
    """A stack on disk, written frame by frame."""
    import dask.array as da
    import xarray as xr

    import stemkit

    def frame(block_info: dict | None = None) -> np.ndarray:
        return _image(size, block_info[None]["array-location"][0][0]).values[None]  # type: ignore[index]

    meta = np.empty((0, 0, 0), dtype=np.float32)
    pixels = da.map_blocks(frame, chunks=((1,) * n, (size,), (size,)), dtype=np.float32, meta=meta)
    images = xr.DataArray(pixels, dims=("frame", "y", "x"), attrs={"mode": "haadf"})
    return stemkit.write(stemkit.calibrated(images, pixel_size=0.01), path)


if __name__ == "__main__":
    main()
