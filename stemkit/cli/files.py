"""Files that a command reads, and unique names of their results."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RESULT_ENDINGS", "Selection", "is_result_ending", "result_names", "select_files"]

#: Longest name of a result without its ending, bytes (chosen: file systems allow 255, endings have up to 40).
MAX_NAME_BYTES = 200
#: Endings of the names of all results, before the number of the image in a stack and the suffix.
RESULT_ENDINGS = (
    "enhanced", "uncertainty", "straightened", "noise", "columns", "vacancies", "average", "drift", "aligned", "report",
    "polarization", "counts", "grains", "rings", "dumbbells", "dislocations", "defects", "strain", "profile",
    "elements",
)  # fmt: skip
#: Pattern of these endings.
_ENDING = rf"_({'|'.join(RESULT_ENDINGS)})(_\d{{3,}})?"
#: Names of results: the name of the input, its region, and the ending.
_RESULT = re.compile(rf"^(?P<origin>.+?)(_y\d+-\d+_x\d+-\d+)?{_ENDING}$")


@dataclass(frozen=True)
class Selection:
    """Files of a command.

    ``left_out`` are results of other files of the selection that were found in folders, ``problems`` are messages about
    paths without any file.
    """

    files: tuple[Path, ...]
    left_out: tuple[Path, ...]
    problems: tuple[str, ...]


def select_files(paths: Sequence[Path], recursive: bool = False, series: bool = False) -> Selection:
    """Files among the paths and in folders among them, in natural order, each once.

    With ``series``, a folder is one series of frames, and counts as a file. Files in folders whose names are those of
    results of other files (``a_enhanced.tif`` of ``a.dm4``) are left out unless they are among the paths.
    """
    from stemkit.io.folders import image_files
    from stemkit.io.reading import READABLE

    named, found, problems = list[Path](), list[Path](), list[str]()
    order = list[Path]()
    for path in paths:
        if series or not _is_folder(path):
            named.append(path)
            order.append(path)
            continue
        try:
            inside = image_files(path, READABLE, recursive)
        except OSError as error:
            problems.append(error.strerror or str(error))
            continue
        except ValueError as error:
            problems.append(f"{error}{'' if recursive else '; -r also searches its sub-folders'}")
            continue
        found += inside
        order += inside
    origins = {origin for path in order for origin in _possible_names(path)}
    left_out = {p for p in found if _is_result(p, origins)} - set(named)
    return Selection(tuple(_once(p for p in order if p not in left_out)), tuple(_once(left_out)), tuple(problems))


def result_names(files: Sequence[Path]) -> list[str]:
    """Names of the results of files without their endings, each different.

    The name is that of the file without its suffix. If several files share it, the suffix is added (``a_dm4``), then
    the names of folders (``x_a_dm4``), and if these are equal, too, a hash of the path.
    """
    levels = [0] * len(files)
    names = [_name(path, 0) for path in files]
    while repeated := {name for name, n in Counter(names).items() if n > 1}:
        for i, path in enumerate(files):
            if names[i] in repeated:
                levels[i] += 1
                names[i] = _name(path, levels[i])
    return names


def is_result_ending(ending: str) -> bool:
    """Whether files with an ending such as ``_columns_001.png`` are recognised as results."""
    return re.fullmatch(rf"{_ENDING}\.\w+", ending) is not None


def _name(path: Path, level: int) -> str:
    """Name of the results of a file: its stem, from level 1 with the suffix, from level 2 with folders, then a hash."""
    if level == 0:
        return _shortened(path.stem)
    folders = path.absolute().parts[1:-1]
    name = "_".join([*folders[max(0, len(folders) - (level - 1)) :], path.name.replace(".", "_")])
    if level > len(folders) + 1:
        name = f"{hashlib.sha1(os.fsencode(path.absolute())).hexdigest()[:8]}_{name}"
    return _shortened(name)


def _shortened(name: str) -> str:
    """A name that leaves space for endings; what is removed is replaced with a hash."""
    encoded = os.fsencode(name)
    if len(encoded) <= MAX_NAME_BYTES:
        return name
    kept = encoded[: MAX_NAME_BYTES - 9].decode(errors="ignore")
    return f"{kept}_{hashlib.sha1(encoded).hexdigest()[:8]}"


def _possible_names(path: Path) -> Iterable[str]:
    return (_name(path, level) for level in range(4))


def _is_result(path: Path, origins: set[str]) -> bool:
    """Whether the name is that of a result of one of the files, or of the result of a result."""
    match = _RESULT.match(path.stem)
    return match is not None and match["origin"] in origins


def _once(paths: Iterable[Path]) -> Iterator[Path]:
    """Each file once, also if it is given under several paths."""
    seen = set[str]()
    for path in paths:
        real = os.path.realpath(path)
        if real not in seen:
            seen.add(real)
            yield path


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder of files; not if it can't be examined, which the reading of the file reports."""
    from stemkit.io.folders import is_zarr

    try:
        return path.is_dir() and not is_zarr(path)
    except OSError:
        return False
