"""Choice of a dataset in a file with several."""

from __future__ import annotations

import warnings
from numbers import Integral
from pathlib import Path

from stemkit.io.file_dataset import FileDataset

__all__ = ["choose_dataset"]

#: Number of datasets that a message lists (chosen).
_MAX_LISTED = 20


def choose_dataset(found: list[FileDataset], dataset: int | str | None, path: Path) -> int:
    """Index of the dataset to read."""
    if dataset is None:
        return _default(found, path)
    index = _index_of_name(found, dataset, path) if isinstance(dataset, str) else _checked_index(found, dataset, path)
    if found[index].refusal:
        raise ValueError(f"can't read dataset {dataset!r} of {path} as an image: it is {found[index].refusal}")
    return index


def _default(found: list[FileDataset], path: Path) -> int:
    """Index of the first image of a detector; without one, of the first that was computed, or of the first map."""
    images = [i for i, candidate in enumerate(found) if not candidate.refusal]
    if not images:
        contents = "; ".join(dict.fromkeys(candidate.refusal for candidate in found)) or "nothing"
        raise ValueError(f"can't read {path} as an image: it contains {contents}")
    chosen = min(images, key=lambda i: found[i].kind)
    if len(images) > 1:
        others = [_label(found, i) for i in images if i != chosen]
        warnings.warn(
            f"{path} contains {len(images)} images and {_label(found, chosen)} is read: to read another, pass its "
            f"index or name as dataset=, one of {_listed(others)}",
            UserWarning,
            stacklevel=4,
        )
    return chosen


def _index_of_name(found: list[FileDataset], name: str, path: Path) -> int:
    hits = [i for i, candidate in enumerate(found) if candidate.name == name]
    if len(hits) > 1:
        raise ValueError(
            f"{path} has {len(hits)} datasets named {name!r}: pass the index, {' or '.join(map(str, hits))}"
        )
    if not hits and name.isdecimal():
        return _checked_index(found, int(name), path)
    if not hits:
        raise ValueError(f"{path} has no dataset {name!r}: choose one of {_labels(found)}")
    return hits[0]


def _checked_index(found: list[FileDataset], index: int, path: Path) -> int:
    if isinstance(index, bool) or not isinstance(index, Integral):
        raise TypeError(f"dataset must be an index or a name, but is {index!r}")
    if not 0 <= index < len(found):
        raise ValueError(f"{path} has no dataset {index}: choose one of {_labels(found)}")
    return int(index)


def _labels(found: list[FileDataset]) -> str:
    return _listed([_label(found, i) for i in range(len(found))])


def _listed(labels: list[str]) -> str:
    more = f" and {len(labels) - _MAX_LISTED} more" if len(labels) > _MAX_LISTED else ""
    return ", ".join(labels[:_MAX_LISTED]) + more


def _label(found: list[FileDataset], index: int) -> str:
    """Index, name and shape of a dataset."""
    shape = " x ".join(map(str, found[index].values.shape))
    name = f" {found[index].name!r}" if found[index].name else ""
    return f"{index}{name} ({shape})"
