"""Files of weights, with the architecture of the network and the scaling of its input."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stemkit.atomic import whole_file
from stemkit.denoising.weight_checks import (
    FLOATS,
    OUTPUTS,
    check_archive,
    check_finite,
    check_shapes,
    check_tensors,
    parse_description,
)
from stemkit.networks import FCN, SFIN, AtomSegNet

__all__ = [
    "OUTPUTS",
    "NetworkInfo",
    "build",
    "find_weights",
    "known_weights",
    "load_weights",
    "save_weights",
    "sha256_of",
]

SHIPPED = Path(__file__).parent / "shipped"
#: Name of the shipped weights that ``"auto"`` stands for.
DEFAULT = "sfin-general"
#: Output range of AtomSegNet's sigmoid, standard deviations of an image (chosen).
SIGMOID_RANGE = (-4.0, 12.0)
#: Divisors of the height and width of a network's input; that of SFIN is its downsampling (derived: pooling).
MULTIPLES = {"fcn": 1, "atomsegnet": 4}


@dataclass(frozen=True)
class NetworkInfo:
    """Description of a network in a file of weights.

    Parameters
    ----------
    n_channels, n_blocks, downsampling : int
        See :class:`stemkit.networks.SFIN`; ``n_blocks`` is the number of layers of an
        :class:`stemkit.networks.FCN`.
    outputs : tuple of str
        Names of the output channels: ``"enhance"``, ``"detect"``, ``"superresolve"``.
    scaling : {"standard", "grey255"}
        Scaling of the input: mean 0 and standard deviation 1, or grey values from 0 to 255 (the authors' weights).
    spacing : (float, float) or None
        Range of the distances of neighbouring columns in the training images, px.
    sha256 : str
        Hash of the file; empty for a network that was not saved.
    training : dict
        Record of the training, in built-in types.
    architecture : {"sfin", "fcn", "atomsegnet"}
        Class of the network.
    """

    n_channels: int = 64
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
        """Divisor of the height and width of the network's input."""
        return MULTIPLES.get(self.architecture, self.downsampling)


def build(info: NetworkInfo) -> nn.Module:
    """Network of this description with random weights.

    Raises
    ------
    ValueError
        If the architecture is unknown.
    """
    n_outputs = len(info.outputs)
    match info.architecture:
        case "sfin":
            return SFIN(n_outputs, info.n_channels, info.n_blocks, info.downsampling)
        case "fcn":
            return FCN(n_outputs, info.n_channels, info.n_blocks)
        case "atomsegnet":
            return AtomSegNet(n_outputs, info.n_channels, SIGMOID_RANGE)
    raise ValueError(f"architecture must be 'sfin' or one of {sorted(MULTIPLES)}, but is {info.architecture!r}")


def known_weights() -> dict[str, Path]:
    """Names and files of the weights shipped with the package."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.safetensors"))}


def find_weights(weights: str | Path) -> Path:
    """File of weights from a name or a path.

    Raises
    ------
    ValueError
        If ``weights`` is neither a shipped name nor an existing file.
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
        f"but is {str(weights)!r}, which is neither"
    )


def load_weights(weights: str | Path) -> tuple[nn.Module, NetworkInfo]:
    """Load a network from a shipped name, a stemkit safetensors file, or a checkpoint of SFIN's authors.

    No code in a file is executed: files are read by safetensors, or by torch with ``weights_only=True``. Description,
    names, shapes and data types are compared before the network is built, and its weights must be finite.

    Raises
    ------
    ValueError
        If there is no such file, or if it does not contain the weights of a network that stemkit can build.
    """
    path = find_weights(weights)
    info, tensors = _from_safetensors(path) if path.suffix == ".safetensors" else _from_checkpoint(path)
    check_finite(tensors, f"weights {path}", "the training diverged or the file is damaged, use other weights")
    module = build(info)
    module.load_state_dict(tensors, strict=False)  # the names were compared; only the counters of batch norms lack
    return module, info


def save_weights(module: nn.Module, info: NetworkInfo, path: Path) -> Path:
    """Write convolution weights in half precision, other weights in single precision, and their description.

    Raises
    ------
    ValueError
        If a weight is NaN or infinite, or too large for half precision; nothing is written.
    """
    from safetensors.torch import save

    tensors = {}
    for key, value in module.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        half = value.dim() == 4
        tensors[key] = value.detach().cpu().to(torch.float16 if half else torch.float32).contiguous()
    check_finite(tensors, f"the weights for {path}", "the training diverged, use a smaller learning rate")
    metadata = {k: v for k, v in asdict(info).items() if k != "sha256"}
    content = save(tensors, metadata={"stemkit": json.dumps(metadata)})
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
    return path


def _from_safetensors(path: Path) -> tuple[NetworkInfo, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            info = _info(file.metadata() or {}, path)
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
            check_shapes({key: tuple(part.get_shape()) for key, part in slices.items()}, _shapes(info, path), path)
            if others := {str(part.get_dtype()) for part in slices.values()} - {*FLOATS.values()}:
                raise ValueError(f"weights {path} must be floating-point numbers, but some are {sorted(others)}")
            return info, {key: file.get_tensor(key).float() for key in slices}
    except SafetensorError as error:
        raise ValueError(f"weights {path} can't be read as safetensors, the file may be damaged: {error}") from error


def _info(metadata: dict[str, str], path: Path) -> NetworkInfo:
    if "stemkit" not in metadata:
        raise ValueError(
            f"weights {path} must have stemkit's description of the network, but have none: use a file that "
            "save_weights wrote"
        )
    return NetworkInfo(**parse_description(metadata["stemkit"], path), sha256=sha256_of(path))


def _from_checkpoint(path: Path) -> tuple[NetworkInfo, dict[str, Tensor]]:
    check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a bad file
        raise ValueError(
            f"weights {path} can't be read as a torch checkpoint that contains tensors only: {error}"
        ) from error
    state = check_tensors(content.get("model_state_dict", content) if isinstance(content, dict) else content, path)
    state = {k.removeprefix("module."): v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    if "head_conv.weight" not in state:
        raise ValueError(
            f"weights {path} must be of an SFIN, with a key 'head_conv.weight', but have the keys {sorted(state)[:5]}"
        )
    blocks = {key.split(".")[1] for key in state if key.startswith("body.")}
    shape = {"n_channels": len(state["head_conv.weight"]) if state["head_conv.weight"].ndim else 0}
    text = json.dumps({**shape, "n_blocks": len(blocks), "outputs": ["enhance"], "scaling": "grey255"})
    info = NetworkInfo(**parse_description(text, path), sha256=sha256_of(path))
    # a tensor can be larger than its file, as a view of few numbers: shapes are compared before it is copied
    check_shapes({key: tuple(value.shape) for key, value in state.items()}, _shapes(info, path), path)
    return info, {key: value.float() for key, value in state.items()}


def _shapes(info: NetworkInfo, path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the network's tensors, without memory for them."""
    try:
        with torch.device("meta"):
            state = build(info).state_dict()
    except ValueError as error:
        raise ValueError(f"weights {path} describe a network that can't be built: {error}") from error
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}


def sha256_of(path: Path) -> str:
    """Hash of the content of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
