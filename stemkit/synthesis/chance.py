"""Random numbers for a batch of images, on the generator's device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["log_uniform", "pick", "random_integer", "uniform"]


def uniform(g: torch.Generator, n: int, low: float, high: float) -> Tensor:
    """Uniform distribution between two numbers, ``(n,)``."""
    return low + (high - low) * torch.rand(n, generator=g, device=g.device)


def log_uniform(g: torch.Generator, n: int, low: float, high: float) -> Tensor:
    """Log-uniform distribution between two numbers, ``(n,)``."""
    return torch.exp(uniform(g, n, math.log(low), math.log(high)))


def random_integer(g: torch.Generator, n: int) -> int:
    """One integer from 0 to ``n - 1``, all with the same probability."""
    return int(torch.randint(n, (1,), generator=g, device=g.device))


def pick(g: torch.Generator, n: int, probability: float) -> Tensor:
    """Bernoulli distribution: 1 with the given probability, else 0, ``(n,)``."""
    return (torch.rand(n, generator=g, device=g.device) < probability).float()
