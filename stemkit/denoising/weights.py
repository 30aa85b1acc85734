"""Weights on disk: safetensors that say which network they are for and how its input is scaled."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stemkit.io.atomic import whole_file
from stemkit.networks import FCN, SFIN, AtomSegNet

__all__ = ["OUTPUTS", "NetworkInfo", "build", "find_weights", "known_weights", "load_weights", "save_weights"]

SHIPPED = Path(__file__).parent / "shipped"
DEFAULT = "sfin-general"
#: The authors' checkpoints want grey values 0..255 as they are; ours a mean of 0 and a standard deviation of 1.
SCALINGS = ("standard", "grey255")
OUTPUTS = ("enhance", "detect", "superresolve")
#: What the sigmoid of AtomSegNet spans, in standard deviations of an image.
SIGMOID = (-4.0, 12.0)
#: Height and width that a network takes are multiples of this; SFIN's, of its downsampling.
MULTIPLES = {"fcn": 1, "atomsegnet": 4}


@dataclass(frozen=True)
class NetworkInfo:
    """What a weights file says of itself.

    Parameters
    ----------
    width, n_blocks, downsampling : int
        See :class:`stemkit.networks.SFIN`; ``n_blocks`` are the layers of :class:`stemkit.networks.FCN`.
    outputs : tuple of str
        What the output channels are, of ``"enhance"``, ``"detect"``, ``"superresolve"``.
    scaling : {"standard", "grey255"}
        How the input is scaled.
    spacing : (float, float) or None
        Distances of neighbouring columns in px that the network has seen.
    sha256 : str
        Of the file; empty for a network that was never saved.
    training : dict
        How the weights were made, in plain numbers and strings.
    architecture : {"sfin", "fcn", "atomsegnet"}
        Which of the networks it is.
    """

    width: int = 64
    n_blocks: int = 8
    downsampling: int = 1
    outputs: tuple[str, ...] = ("enhance",)
    scaling: str = "standard"
    spacing: tuple[float, float] | None = None
    sha256: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    architecture: str = "sfin"

    @property
    def multiple(self) -> int:
        """Height and width of what the network takes are multiples of this."""
        return MULTIPLES.get(self.architecture, self.downsampling)


def build(info: NetworkInfo) -> nn.Module:
    """The network that the info describes, with fresh weights.

    Raises
    ------
    ValueError
        If there is no such architecture.
    """
    n_outputs = len(info.outputs)
    match info.architecture:
        case "sfin":
            return SFIN(n_outputs, info.width, info.n_blocks, info.downsampling)
        case "fcn":
            return FCN(n_outputs, info.width, info.n_blocks)
        case "atomsegnet":
            return AtomSegNet(n_outputs, info.width, SIGMOID)
    raise ValueError(f"architecture must be 'sfin' or one of {sorted(MULTIPLES)}, but is {info.architecture!r}")


def known_weights() -> dict[str, Path]:
    """Names and files of the weights that ship with the package."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}


def find_weights(weights: str | Path) -> Path:
    """The file behind a name or a path.

    Raises
    ------
    ValueError
        If it is neither a known name nor an existing file.
    """
    known = known_weights()
    name = DEFAULT if weights == "auto" else str(weights)
    if name in known:
        return known[name]
    path = Path(name)
    if path.is_file():
        return path
    raise ValueError(
        f"weights must be 'auto', None, one of the names {sorted(known)} or the path of a .safetensors or .pth file, "
        f"but is {str(weights)!r}, which is no such name and no file"
    )


def load_weights(weights: str | Path) -> tuple[nn.Module, NetworkInfo]:
    """A network with its weights, from a shipped name, a stemkit safetensors file, or the authors' checkpoint.

    Nothing in a file is ever executed: safetensors, or torch's loader restricted to tensors.
    """
    path = find_weights(weights)
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    return _load_checkpoint(path)


def save_weights(module: nn.Module, info: NetworkInfo, path: Path) -> Path:
    """Write weights in half precision with their description; normalisation statistics stay in single precision."""
    from safetensors.torch import save_file

    tensors = {}
    for key, value in module.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        half = value.dim() == 4
        tensors[key] = value.detach().cpu().to(torch.float16 if half else torch.float32).contiguous()
    described = {k: v for k, v in asdict(info).items() if k != "sha256"}
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata={"stemkit": json.dumps(described)})
        temporary.chmod(0o644)  # safetensors keeps its files from other users
    return path


def _load_safetensors(path: Path) -> tuple[nn.Module, NetworkInfo]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"can't read {path} as safetensors: {error}") from error
    if "stemkit" not in metadata:
        raise ValueError(f"{path} does not say which network it is for: it was not written by stemkit")
    described = json.loads(metadata["stemkit"])
    described["outputs"] = tuple(described["outputs"])
    described["spacing"] = tuple(described["spacing"]) if described.get("spacing") else None
    info = NetworkInfo(**described, sha256=_sha256(path))
    module = build(info)
    _fill(module, tensors, path)
    return module, info


def _load_checkpoint(path: Path) -> tuple[nn.Module, NetworkInfo]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a bad file
        raise ValueError(f"can't read {path} as a torch checkpoint of tensors alone: {error}") from error
    state = content.get("model_state_dict", content)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if "head_conv.weight" not in state:
        raise ValueError(f"{path} holds no SFIN weights: there is no 'head_conv' among its keys {sorted(state)[:5]}")
    info = NetworkInfo(
        width=state["head_conv.weight"].shape[0],
        n_blocks=1 + max(int(k.split(".")[1]) for k in state if k.startswith("body.")),
        scaling="grey255",
        sha256=_sha256(path),
    )
    module = build(info)
    _fill(module, {k: v.float() for k, v in state.items() if not k.endswith("num_batches_tracked")}, path)
    return module, info


def _fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        missing, unexpected = module.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit the network they describe: {error}") from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"the weights in {path} do not fit: missing {missing[:3]}, unexpected {unexpected[:3]}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
