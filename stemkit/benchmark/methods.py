"""The methods that are compared: the rows of the tables, and which of them can be run."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

from stemkit.benchmark.trained import ABLATIONS, BASELINES, SFIN_SAME_TRAINING, TrainingSpec
from stemkit.denoising.weights import sha256_of

__all__ = ["RECORDED", "MethodSpec", "compared_methods"]

#: Name of the recorded image among the methods.
RECORDED = "recorded"
#: Estimators by the architecture of their network.
ESTIMATORS = {"fcn": "stemkit:FCNDenoiser", "atomsegnet": "stemkit:AtomSegNetDenoiser", "sfin": "stemkit:SFINDenoiser"}


@dataclass(frozen=True)
class MethodSpec:
    """A row of the tables: where its class is imported from, and its parameters.

    Parameters
    ----------
    name : str
        Name in the tables.
    import_path : str
        ``"module:Class"``; empty for the recorded image.
    parameters : mapping
        Parameters of the class.
    unavailable : str
        Why the method cannot be run; empty if it can.
    is_network : bool
        Whether it is a network with maps for detection and super-resolution, selected by ``target``.
    is_locator : bool
        Whether it is a function that refines positions (y, x), px, in an image, instead of an estimator that returns an
        image.
    is_ablation : bool
        Whether it is SFIN without a part of its training data or of the network, compared only with the complete one.
    package : str
        Name of another package that it needs; empty if none.
    """

    name: str
    import_path: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    unavailable: str = ""
    is_network: bool = False
    is_locator: bool = False
    is_ablation: bool = False
    package: str = ""

    def create(self, **changed: Any) -> Any:
        """Create the estimator.

        Parameters
        ----------
        **changed
            Parameters that replace those of the row.

        Returns
        -------
        estimator, callable or None
            The function itself if ``is_locator``, None for the recorded image.

        Raises
        ------
        ValueError
            If there is no such class.
        """
        if not self.import_path:
            return None
        imported = self._imported()
        return imported if self.is_locator else imported(**{**self.parameters, **changed})

    @property
    def fingerprint(self) -> str:
        """Text that identifies the parameters, the weights, the package's version or the source file."""
        parts = [self.name, self.import_path, self.unavailable]
        for name, value in self.parameters.items():
            parts += [name, sha256_of(value) if isinstance(value, Path) else repr(value)]
        if self.package and not self.unavailable:
            parts.append(self.version)
        if self.import_path and not self.import_path.startswith("stemkit"):
            source = getattr(importlib.import_module(self.import_path.partition(":")[0]), "__file__", None)
            parts.append(sha256_of(Path(source)) if source else "")
        return "\n".join(parts)

    @property
    def version(self) -> str:
        """Name and version of the other package."""
        return f"{self.package} {metadata.version(self.package)}"

    def _imported(self) -> Any:
        module, _, name = self.import_path.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"add must name a class that can be imported, as module:Class, but is {self.import_path!r}: {error}"
            ) from error


def compared_methods(
    networks: Path | None = None, *, external: bool = False, add: Sequence[str] = (), quick: bool = False
) -> list[MethodSpec]:
    """The rows of the tables, in their order.

    Parameters
    ----------
    networks : Path, optional
        Folder with the weights written by :func:`~stemkit.benchmark.trained.train_network`. Networks that neither ship
        nor are found there are listed as unavailable.
    external : bool
        Include the methods of other packages (BM3D, Atomap).
    add : sequence of str
        Further estimators as ``"module:Class"``, created without parameters.
    quick : bool
        Leave out the mean over mirror images, which takes as long as all other methods together.

    Returns
    -------
    list of MethodSpec

    Raises
    ------
    ValueError
        If an entry of `add` cannot be imported or has no ``fit`` and ``transform``.
    """
    rows = [*_classical(external), *_networks(networks)]
    if not quick:
        flips = {"average_flips": True}
        rows.append(MethodSpec("SFIN, flips averaged", ESTIMATORS["sfin"], flips, is_network=True))
    for import_path in add:
        rows.append(_added(import_path, {row.name for row in rows}))
    return rows


def _classical(external: bool) -> list[MethodSpec]:
    """The recorded image and the methods without training."""
    rows = [
        MethodSpec(RECORDED, ""),
        MethodSpec("ABSF", "stemkit:ABSFDenoiser"),
        MethodSpec("Wiener", "stemkit:WienerDenoiser"),
        MethodSpec("NLM", "stemkit:NLMDenoiser"),
    ]
    if external:
        rows.append(_external("BM3D", "BM3DDenoiser", "bm3d"))
        rows.append(replace(_external("Atomap, recorded pixels", "atomap_positions", "atomap"), is_locator=True))
    return [*rows, MethodSpec("Periodic", "stemkit:PeriodicDenoiser")]


def _networks(folder: Path | None) -> list[MethodSpec]:
    """Networks that are trained for the tables, and the shipped one."""
    specs = (*BASELINES, *(baseline.for_equal_time() for baseline in BASELINES), SFIN_SAME_TRAINING)
    ablations = [replace(_trained(spec, folder), is_ablation=True) for spec in ABLATIONS]
    shipped = MethodSpec("SFIN", ESTIMATORS["sfin"], is_network=True)
    return [*(_trained(spec, folder) for spec in specs), *ablations, shipped]


def _trained(spec: TrainingSpec, folder: Path | None) -> MethodSpec:
    row = MethodSpec(spec.name, ESTIMATORS[spec.info.architecture], is_network=True)
    path = None if folder is None else folder / f"{spec.file_stem}.safetensors"
    if path is not None and path.exists():
        return replace(row, parameters={"weights": path})
    return replace(row, unavailable="no weights ship, and none were trained")


def _external(name: str, attribute: str, package: str) -> MethodSpec:
    unavailable = "" if util.find_spec(package) else f"the package {package} is not installed"
    import_path = f"stemkit.benchmark.external:{attribute}"
    return MethodSpec(name, import_path, unavailable=unavailable, package=package)


def _added(import_path: str, names: set[str]) -> MethodSpec:
    """An estimator of the user, named by its class, or by the whole path if that name is taken."""
    if not all(import_path.partition(":")):
        raise ValueError(f"add must name a class as module:Class, but is {import_path!r}")
    name = import_path.partition(":")[2]
    row = MethodSpec(import_path if name in names else name, import_path)
    try:
        method = row.create()
    except TypeError as error:
        raise ValueError(
            f"add must name a class that needs no parameters, but {import_path!r} does: {error}"
        ) from error
    missing = [name for name in ("fit", "transform") if not callable(getattr(method, name, None))]
    if missing:
        raise ValueError(
            f"add must name a class with fit and transform, but {import_path!r} lacks {', '.join(missing)}"
        )
    return row
