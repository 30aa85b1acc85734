"""A device that is none: tensors that say they are on another device and hold their values on the CPU.

Code that mixes devices, or draws with a generator of the other device, fails on it as it does on a GPU, and since there
are values, code whose course depends on them runs, too. The device is called "meta", for which torch needs no driver.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
#: Operations that take tensors of two devices.
BETWEEN = ("aten::copy_", "aten::_to_copy")
#: An index on the CPU is copied by torch.
INDEXED = ("aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::index_put")


class MixedDevicesError(AssertionError):
    """Tensors, or a tensor and a generator, of two devices met."""


class Pretended(Tensor):
    """A tensor that says it is on the device."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> Pretended:
        made: Pretended = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        made.values = values
        return made

    def __repr__(self, **kwargs: Any) -> str:
        return f"Pretended({self.values!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


_PLAIN = torch.Generator


class Generator(torch.Generator):
    """A CPU generator that says it is on the device."""

    @property
    def device(self) -> torch.device:
        return DEVICE


class _EitherGenerator(torch.Generator):
    """What makes generators meanwhile."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:
        return Generator() if torch.device(device) == DEVICE else _PLAIN()


class _Generators(TorchFunctionMode):
    """Each is used on its own device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if generator is not None:
            device = kwargs.get("device")
            first = next((leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)), None)
            where = torch.device(device or "cpu") if first is None else first.device
            if generator.device != where:
                raise MixedDevicesError(f"{func} on {where} with a generator on {generator.device}")
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            # made on the CPU first, where a mode of operations takes no notice
            made = func(*args, **{k: v for k, v in kwargs.items() if k != "device"})
            return made.to(kwargs["device"])
        if func is Tensor.tolist and isinstance(args[0], Pretended):
            return args[0].values.tolist()
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [t for t in tensors if isinstance(t, Pretended)]
    others = [t for t in tensors if not isinstance(t, Pretended) and t.dim() > 0]
    if name in INDEXED:
        others = [t for t in others if any(t is part for part in (args[0], *args[2:3]))]
    if ours and others and name not in BETWEEN:
        raise MixedDevicesError(
            f"{name} of tensors on {DEVICE} and, of shapes {[(*t.shape,) for t in others]}, on the CPU"
        )
    asked = next((leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)), None)
    there = bool(ours) if asked is None else asked == DEVICE
    if name == "aten::copy_":
        there = isinstance(args[0], Pretended)
    values, named = tree_map_only(Pretended, lambda t: t.values, (args, kwargs))
    values, named = tree_map_only(torch.device, lambda _: torch.device("cpu"), (values, named))
    out = func(*values, **named)
    # what is changed in place is returned as itself
    itself = {id(t.values): t for t in ours}
    if not there:
        return out
    return tree_map_only(Tensor, lambda t: itself[id(t)] if id(t) in itself else Pretended(t), out)


@contextmanager
def pretended_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A block in which there is a device that is the CPU under another name."""
    import torch._dynamo  # torch imports it when a mode is first used, and would find other generators

    with monkeypatch.context() as patch:
        patch.setattr(torch, "Generator", _EitherGenerator)
        patch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
        with _Generators(), _Operations():
            yield DEVICE
