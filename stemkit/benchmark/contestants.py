"""Who is compared: each row of the tables by name, and how it is made, or why it can't be."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

from stemkit.benchmark.entrants import ABLATIONS, RIVALS, SFIN_ALIKE, Entrant

__all__ = ["Contestant", "contestants"]

RECORDED = "recorded"


@dataclass(frozen=True)
class Contestant:
    """A row: a class by its place, and its parameters.

    Parameters
    ----------
    name : str
        As in the tables.
    place : str
        ``"module:Class"``; empty for the recorded image.
    parameters : mapping
    missing : str
        Why it is not run; empty where it is.
    learnt : bool
        Whether it has maps for detection and super-resolution, which ``target`` selects.
    locates : bool
        It gives no image, but is a function from an image and places (y, x), px, to where it finds columns near them.
    ablated : bool
        SFIN without a part of its data or of itself: compared with the whole alone.
    package : str
        Another package that it needs.
    """

    name: str
    place: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    missing: str = ""
    learnt: bool = False
    locates: bool = False
    ablated: bool = False
    package: str = ""

    def method(self, **changed: Any) -> Any:
        """The estimator, or None for the recorded image; or the function that locates.

        Raises
        ------
        ValueError
            If there is no such class.
        """
        if not self.place:
            return None
        made = self._made()
        return made if self.locates else made(**{**self.parameters, **changed})

    @property
    def made_of(self) -> str:
        """A text that differs where what is judged does: its parameters, its weights, its code."""
        told = [self.name, self.place, self.missing]
        for name, value in self.parameters.items():
            told += [name, _digest(value) if isinstance(value, Path) else repr(value)]
        if self.package and not self.missing:
            told.append(self.version)
        if self.place and not self.place.startswith("stemkit"):
            source = getattr(importlib.import_module(self.place.partition(":")[0]), "__file__", None)
            told.append(_digest(Path(source)) if source else "")
        return "\n".join(told)

    @property
    def version(self) -> str:
        """The other package and its version."""
        return f"{self.package} {metadata.version(self.package)}"

    def _made(self) -> Any:
        module, _, name = self.place.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"add must name a class that can be imported, as module:Class, but is {self.place!r}: {error}"
            ) from error


def contestants(
    networks: Path | None = None, *, rivals: bool = False, add: Sequence[str] = (), quick: bool = False
) -> list[Contestant]:
    """The rows of the tables.

    Parameters
    ----------
    networks : Path, optional
        Folder in which :func:`~stemkit.benchmark.entrants.train_entrant` has left weights; without them the networks
        that do not ship are not run.
    rivals : bool
        Also what other packages offer, where they are installed.
    add : sequence of str
        Estimators of one's own, as ``"module:Class"``, without parameters.
    quick : bool
        Without the mean over mirror images, which takes as long as the rest.

    Raises
    ------
    ValueError
        If one of ``add`` is no such name.
    """
    rows = [
        Contestant(RECORDED, ""),
        Contestant("ABSF", "stemkit:ABSFDenoiser"),
        Contestant("Wiener", "stemkit:WienerDenoiser"),
        Contestant("NLM", "stemkit:NLMDenoiser"),
    ]
    if rivals:
        bm3d, atomap = "stemkit.benchmark.rivals:BM3DDenoiser", "stemkit.benchmark.rivals:atomap_positions"
        rows.append(Contestant("BM3D", bm3d, missing=_not_here("bm3d"), package="bm3d"))
        rows.append(
            Contestant("Atomap, recorded pixels", atomap, missing=_not_here("atomap"), locates=True, package="atomap")
        )
    rows.append(Contestant("Periodic", "stemkit:PeriodicDenoiser"))
    named = {"fcn": "stemkit:FCNDenoiser", "atomsegnet": "stemkit:AtomSegNetDenoiser", "sfin": "stemkit:SFINDenoiser"}
    for entrant in (*RIVALS, *(rival.on_time() for rival in RIVALS), SFIN_ALIKE):
        rows.append(_trained(entrant, named[entrant.info.architecture], networks))
    rows += [replace(_trained(entrant, named["sfin"], networks), ablated=True) for entrant in ABLATIONS]
    rows.append(Contestant("SFIN", "stemkit:SFINDenoiser", learnt=True))
    if not quick:
        rows.append(Contestant("SFIN, flips averaged", "stemkit:SFINDenoiser", {"average_flips": True}, learnt=True))
    for place in add:
        if not all(place.partition(":")):
            raise ValueError(f"add must name a class as module:Class, but is {place!r}")
        name = place.partition(":")[2]
        row = Contestant(place if name in {row.name for row in rows} else name, place)
        _check(row)
        rows.append(row)
    return rows


def _check(row: Contestant) -> None:
    try:
        method = row.method()
    except TypeError as error:
        raise ValueError(f"add must name a class that needs no parameters, but {row.place!r} does: {error}") from error
    lacks = [name for name in ("fit", "transform") if not callable(getattr(method, name, None))]
    if lacks:
        raise ValueError(f"add must name a class with fit and transform, but {row.place!r} lacks {', '.join(lacks)}")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _not_here(package: str) -> str:
    return "" if util.find_spec(package) else f"the package {package} is not installed"


def _trained(entrant: Entrant, place: str, networks: Path | None) -> Contestant:
    path = None if networks is None else networks / f"{entrant.file}.safetensors"
    if path is not None and path.exists():
        return Contestant(entrant.name, place, {"weights": path}, learnt=True)
    return Contestant(entrant.name, place, missing="no weights ship, and none were trained", learnt=True)
