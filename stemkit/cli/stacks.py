"""Stacks that need not fit into the memory: one image after another, each result a block of its own."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.batch import Job
from stemkit.cli.common import detector_options, load, network_options
from stemkit.cli.messages import about, with_option_names
from stemkit.cli.unfinished import unfinished_result
from stemkit.cli.workers import in_workers, without_workers

if TYPE_CHECKING:
    import xarray as xr

    from stemkit import AtomDetector, NoiseCalibrator, SFINDenoiser

__all__ = ["detect_stack", "enhance_stack", "stacked_along", "table_block"]

#: Number of images of a stack, evenly spaced, in which the noise and the columns' spacing and width are measured
#: (chosen: their scatter between images of one session is small).
N_FITTED = 5


def stacked_along(path: Path, arguments: argparse.Namespace) -> str | None:
    """The dim of a stack that can be read image by image, for which dask must be installed; None for an image."""
    if find_spec("dask") is None:
        return None
    image = _load(path, arguments)
    return str(image.dims[0]) if image.ndim == 3 else None


def enhance_stack(job: Job, denoiser: SFINDenoiser, target: Path) -> None:
    """Enhance the images of a file one by one and write them to a Zarr folder."""
    from stemkit.io import ome_zarr
    from stemkit.io.attributes import provenance_text

    stack = _with_mode(_load(job.path, job.arguments))
    denoiser.fit(stack)
    result: Any = denoiser.transform(stack)
    work = _EnhancedBlock(job.path, without_workers(job.arguments), stack.attrs["mode"], denoiser)

    def begin(folder: Path) -> None:
        ome_zarr.create(result, folder, provenance_text(result, None, ()))

    _process(job, "enhancing", target, 1 if stack.ndim == 2 else len(stack), begin, work)


def detect_stack(job: Job, target: Path) -> int:
    """Measure the columns of a stack image by image, one Parquet file each in a folder; the number of columns."""
    from stemkit import AtomDetector, NoiseCalibrator, SFINDenoiser

    arguments = job.arguments
    stack = _with_mode(_load(job.path, arguments))
    subset: Any = stack[sorted({round(i * (len(stack) - 1) / (N_FITTED - 1)) for i in range(N_FITTED)})].compute()
    calibrator = denoiser = None
    if "recorded" not in stack.coords:
        job.step("measuring the noise")
        calibrator = NoiseCalibrator().fit(subset)
        subset = calibrator.transform(subset)
        if not arguments.no_enhance:
            denoiser = SFINDenoiser(**network_options(arguments)).fit(subset)
            subset = denoiser.transform(subset)
    detector = AtomDetector(**detector_options(arguments)).fit(subset)
    work = _TableBlock(job.path, without_workers(arguments), stack.attrs["mode"], calibrator, denoiser, detector)
    _process(job, "measuring the columns", target, len(stack), Path.mkdir, work)
    return sum(_n_rows(target / table_block(i)) for i in range(len(stack)))


def table_block(index: int) -> str:
    """Name of the file with the columns of an image, in the order of the images."""
    return f"image_{index:06d}.parquet"


# --- blocks ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """Work on one image of a stack, in any process."""

    path: Path
    arguments: argparse.Namespace
    mode: str

    def __call__(self, item: tuple[int, Path]) -> tuple[int, list[str]]:
        """Process an image and write its block into the folder; its number, and the texts of warnings."""
        index, folder = item
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always", UserWarning)
            stack = self.opened()
            image = (stack if stack.ndim == 2 else stack[index]).compute()
            try:
                self.process(image.assign_attrs(mode=self.mode), index, folder)
            except ValueError as error:
                raise ValueError(f"image {index}: {error}") from error
        texts = [with_option_names(n.message) for n in notes if issubclass(n.category, UserWarning)]
        return index, list(dict.fromkeys(texts))

    def opened(self) -> xr.DataArray:
        """The stack, whose pixels are not read yet."""
        return _opened(self.path, self.path.stat().st_mtime_ns, _key(self.arguments))

    def process(self, image: xr.DataArray, index: int, folder: Path) -> None:
        """Write the result of an image as its block."""
        raise NotImplementedError


@dataclass(frozen=True)
class _EnhancedBlock(_Block):
    denoiser: SFINDenoiser

    def process(self, image: xr.DataArray, index: int, folder: Path) -> None:
        from stemkit.io import ome_zarr

        for rows, strip in self.denoiser.strips(image):
            ome_zarr.write_rows(folder, index, rows, strip)
            del strip  # its recorded pixels are a copy, which is not needed beside the next tiles
        ome_zarr.write_levels(folder, index)


@dataclass(frozen=True)
class _TableBlock(_Block):
    calibrator: NoiseCalibrator | None
    denoiser: SFINDenoiser | None
    detector: AtomDetector

    def process(self, image: xr.DataArray, index: int, folder: Path) -> None:
        from stemkit.detection.exports import write_columns

        shown: Any = image
        for step in (self.calibrator, self.denoiser):
            shown = shown if step is None else step.transform(shown)
        table = self.detector.transform(shown).assign(image=index)
        write_columns(table, folder / table_block(index), overwrite=True)


def _process(
    job: Job,
    step: str,
    target: Path,
    n: int,
    begin: Callable[[Path], None],
    work: Callable[[tuple[int, Path]], tuple[int, list[str]]],
) -> None:
    """Process the blocks that are not finished and put the result in its place."""
    assert job.record is not None
    record, overwrite = job.record, job.arguments.overwrite
    with unfinished_result(target, record.made_with, overwrite, record.finish) as unfinished:
        if unfinished.is_new:
            begin(unfinished.folder)
        else:
            job.note(about(job.path, f"{len(unfinished.finished)} of {n} images were finished before"))
        left = [(i, unfinished.folder) for i in range(n) if i not in unfinished.finished]
        job.step(step)
        job.count(n - len(left), n)
        printed = set[str]()
        for index, notes in in_workers(work, left, job.arguments, ordered=False):
            unfinished.mark(index)
            job.count(len(unfinished.finished), n)
            for note in notes:
                if note not in printed:
                    job.note(f"stemkit: note: {about(job.path, f'image {index}: {note}')}")
                printed.add(note)


# --- reading -----------------------------------------------------------------------------------------------------


def _load(path: Path, arguments: argparse.Namespace) -> xr.DataArray:
    return load(path, arguments, lazy=True)


def _with_mode(stack: xr.DataArray) -> xr.DataArray:
    """The stack with a mode, that of its first image, so that all images are processed alike."""
    from stemkit.images.mode import resolve_mode

    first = stack if stack.ndim == 2 else stack[0]
    return stack.assign_attrs(mode=resolve_mode(first.compute()))


def _key(arguments: argparse.Namespace) -> tuple[tuple[str, Any], ...]:
    """The arguments that determine what is read."""
    region = None if arguments.region is None else tuple((s.start, s.stop) for s in arguments.region)
    names = ("dataset", "pixel_size", "mode")
    return (*((name, getattr(arguments, name)) for name in names), ("region", region))


@lru_cache(maxsize=1)
def _opened(path: Path, changed: int, key: tuple[tuple[str, Any], ...]) -> xr.DataArray:
    """The lazy stack, opened once per process; its warnings were printed when the command began."""
    del changed  # a file that has changed is opened again
    values = dict(key)
    if values["region"] is not None:
        values["region"] = tuple(slice(*ends) for ends in values["region"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return _load(path, argparse.Namespace(**values))


def _n_rows(path: Path) -> int:
    import pyarrow.parquet as parquet

    return int(parquet.ParquetFile(path).metadata.num_rows)
