"""Checks of files of weights from unknown sources: description, names, shapes, data types, values."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from stemkit.parameters import is_number

__all__ = ["OUTPUTS", "SCALINGS", "check_archive", "check_finite", "check_shapes", "check_tensors", "parse_description"]

#: All output channels of stemkit's own networks.
OUTPUTS = ("enhance", "detect", "superresolve")
#: Scalings of the input.
SCALINGS = ("standard", "grey255")
#: Largest number of channels of a network that is loaded (chosen: 16 times that of the published SFIN).
MAX_CHANNELS = 1024
#: Largest number of blocks or layers of a network that is loaded (chosen: 16 times that of the published SFIN).
MAX_BLOCKS = 128
#: Data types of weights, as torch and as safetensors name them.
FLOATS = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
#: Largest number of consecutive trainings, each of which started from the weights of the previous one (chosen).
MAX_RUNS = 50
#: Entries of the record of a training that are numbers.
_NUMBERS = (
    "seed", "epochs", "epochs_done", "batches_per_epoch", "batch_size", "lr", "seconds", "valid_loss", "valid_psnr",
    "minutes", "emphasis",
)  # fmt: skip
#: Entries of the record of a training that are texts.
_TEXTS = ("stemkit", "torch", "python", "device", "sha256")

#: Shapes of tensors by name.
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


def parse_description(text: str, path: Path) -> dict[str, Any]:
    """Parameters of :class:`stemkit.denoising.NetworkInfo` from the JSON text in a file of weights.

    Raises
    ------
    ValueError
        If the text is no JSON, or if an entry is missing, unknown or outside its range; the message names the file.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"weights {path} have a description that is no JSON, the file is damaged: {error}") from error
    if not isinstance(found, dict):
        raise _wrong(path, "the description", "a dictionary", found)
    if "width" in found:  # name of the number of channels in older files
        found.setdefault("n_channels", found.pop("width"))
    unknown = sorted(found.keys() - _ENTRIES.keys())
    missing = sorted({"n_channels", "n_blocks", "outputs"} - found.keys())
    faults = [f"{kind} the entries {names[:3]}" for kind, names in (("with", unknown), ("without", missing)) if names]
    if faults:
        raise ValueError(
            f"weights {path} have a description {' and '.join(faults)}: they were written by another program, or by a "
            "newer version"
        )
    for name, value in found.items():
        is_valid, constraint = _ENTRIES[name]
        if not is_valid(value):
            raise _wrong(path, name, constraint, value)
    _check_training(found.get("training", {}), path)
    found["outputs"] = tuple(found["outputs"])
    found["spacing"] = tuple(found["spacing"]) if found.get("spacing") else None
    return found


def check_archive(path: Path) -> None:
    """Refuse a torch checkpoint whose contents are larger than the file: torch does not compress what it writes."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"weights {path} can't be read, the file is damaged: {error}") from error
    if unpacked > path.stat().st_size:
        raise ValueError(
            f"weights {path} must be a checkpoint as torch writes it, but its {path.stat().st_size} bytes declare "
            f"{unpacked} bytes of contents"
        )


def check_tensors(state: object, path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint, if it consists of names and dense tensors of floating-point numbers."""
    if not isinstance(state, dict) or not state:
        raise _wrong(path, "their contents", "a dictionary of tensors", state)
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise _wrong(path, f"entry {key!r:.60}", "a tensor with a name", value)
        if value.layout is not torch.strided or (value.dtype not in FLOATS and not key.endswith("num_batches_tracked")):
            raise ValueError(
                f"weights {path} must consist of dense floating-point tensors, but {key!r:.60} is {value.dtype}, "
                f"{value.layout}"
            )
    return state


def check_shapes(shapes: Shapes, expected: Shapes, path: Path) -> None:
    """Raise a ValueError unless the tensors of a file are those of the network that it describes."""
    missing, extra = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
    if missing or extra:
        raise ValueError(
            f"weights {path} do not fit the network that the file describes: {len(missing)} of its tensors are missing "
            f"{_first(missing)}, and {len(extra)} are not part of it {_first(extra)}"
        )
    for key, shape in expected.items():
        if tuple(shapes[key]) != tuple(shape):
            raise ValueError(
                f"weights {path} do not fit the network that the file describes: {key} must have shape {tuple(shape)}, "
                f"but has {tuple(shapes[key])}"
            )


def check_finite(tensors: Mapping[str, Tensor], subject: str, remedy: str) -> None:
    """Raise a ValueError if a tensor has values that are NaN or infinite, or a variance that is negative."""
    for key, value in tensors.items():
        n = int((~torch.isfinite(value)).sum())
        if n:
            raise ValueError(f"{subject} must be finite, but {n} of {value.numel()} values of {key} are not: {remedy}")
        if key.endswith("running_var") and bool((value < 0).any()):
            raise ValueError(f"{subject} must have variances of at least 0, but {key} has negative ones: {remedy}")


def _check_training(record: object, path: Path) -> None:
    """Check those entries of the record of a training, and of the trainings before it, that are printed or added."""
    for _ in range(MAX_RUNS):
        if not isinstance(record, dict):
            raise _wrong(path, "the record of a training", "a dictionary", record)
        for name in record.keys() & {*_NUMBERS}:
            if not is_number(record[name]):
                raise _wrong(path, f"{name} of a training", "a number", record[name])
        for name in record.keys() & {*_TEXTS}:
            if not isinstance(record[name], str):
                raise _wrong(path, f"{name} of a training", "a text", record[name])
        if not _are(record.get("crop_sizes", []), is_number):
            raise _wrong(path, "crop_sizes of a training", "a list of numbers", record["crop_sizes"])
        if "before" not in record:
            return
        record = record["before"]
    raise ValueError(f"weights {path} must be of at most {MAX_RUNS} trainings, but have a record of more")


def _wrong(path: Path, name: str, constraint: str, value: object) -> ValueError:
    return ValueError(f"weights {path} must have {constraint} as {name}, but it is {value!r:.80}")


def _first(names: list[str]) -> str:
    return f"({', '.join(name[:60] for name in names[:3])}{', ...' if len(names) > 3 else ''})"


def _are(values: object, is_valid: Callable[[Any], bool]) -> bool:
    return isinstance(values, list | tuple) and all(map(is_valid, values))


def _between(low: int, high: int) -> tuple[Callable[[Any], bool], str]:
    def is_valid(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return is_valid, f"an integer from {low} to {high}"


def _one_of(values: Iterable[str]) -> tuple[Callable[[Any], bool], str]:
    known = tuple(values)
    return lambda value: isinstance(value, str) and value in known, f"one of {known}"


def _is_range(value: Any) -> bool:
    if value in (None, []):
        return True
    return _are(value, is_number) and len(value) == 2 and 0 < value[0] <= value[1] < math.inf


def _are_outputs(value: Any) -> bool:
    return _are(value, lambda v: isinstance(v, str) and v in OUTPUTS) and 0 < len(value) == len(set(value))


#: Entries of a description: test whether a value is valid, and the constraint in words.
_ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n_channels": _between(1, MAX_CHANNELS),
    "n_blocks": _between(1, MAX_BLOCKS),
    "downsampling": _between(1, 4),
    "outputs": (_are_outputs, f"a list of different names out of {OUTPUTS}"),
    "scaling": _one_of(SCALINGS),
    "spacing": (_is_range, "None or two ascending positive numbers"),
    "training": (lambda value: isinstance(value, dict), "a dictionary"),
    "architecture": (lambda value: isinstance(value, str), "a text"),
}
