from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stemkit.compute import (
    autocast,
    describe_device,
    inference_dtype,
    resolve_device,
    seed_from,
    seeded,
    torch_generator,
)

CPU = torch.device("cpu")


def test_auto_takes_a_gpu_where_there_is_one():
    assert resolve_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == resolve_device(CPU) == CPU


@pytest.mark.parametrize("name", ["gpu", "", "cpu:", 3.5, None])
def test_unknown_devices_are_refused(name):
    with pytest.raises(ValueError, match='device must be "auto" or a torch device'):
        resolve_device(name)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"torch finds no CUDA device: use device=\"auto\""):
        resolve_device("cuda")
    assert resolve_device("auto") == CPU


def test_devices_in_words():
    assert describe_device(CPU) == f"cpu, {torch.get_num_threads()} thread(s)"


@given(st.integers(0, 2**63 - 1))
def test_integers_are_seeds(seed):
    assert seed_from(seed) == seed
    first, second = (torch.rand(4, generator=torch_generator(seed)) for _ in range(2))
    assert torch.equal(first, second)


def test_numpy_integers_are_seeds():
    assert seed_from(np.int64(7)) == 7
    assert type(seed_from(np.uint8(7))) is int


@pytest.mark.parametrize("make", [np.random.RandomState, np.random.default_rng])
def test_generators_give_a_new_seed_each_time(make):
    source, again = make(5), make(5)
    seeds = [seed_from(source) for _ in range(5)]
    assert seeds == [seed_from(again) for _ in range(5)]
    assert len(set(seeds)) == 5
    assert all(0 <= s < 2**63 for s in seeds)


def test_no_seed_is_a_new_one():
    assert len({seed_from(None) for _ in range(5)}) == 5


@pytest.mark.parametrize("state", ["0", 1.5, [1]])
def test_other_states_are_refused(state):
    with pytest.raises(ValueError, match="random_state must be None, an int, a numpy RandomState or a numpy Generator"):
        seed_from(state)


def test_generators_of_other_seeds_differ():
    first, second = (torch.rand(4, generator=torch_generator(s)) for s in (0, 1))
    assert not torch.equal(first, second)


def test_seeded_blocks_repeat_and_leave_the_global_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with seeded(9, CPU):
            drawn.append(torch.rand(3))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("fast", [True, False])
def test_inference_is_in_half_precision_where_that_is_fast_or_asked_for(monkeypatch, fast):
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: fast, raising=False)
    assert inference_dtype(CPU) == inference_dtype(CPU, "auto") == (torch.bfloat16 if fast else torch.float32)
    assert inference_dtype(CPU, "float32") == torch.float32
    assert inference_dtype(CPU, "bfloat16") == torch.bfloat16


def test_a_cpu_of_which_torch_says_nothing_is_not_fast_in_half_precision(monkeypatch):
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
    assert inference_dtype(CPU) == torch.float32


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match="precision must be one of 'auto', 'float32', 'bfloat16', but is 'half'"):
        inference_dtype(CPU, "half")


@pytest.mark.parametrize("fast", [True, False])
def test_training_is_in_mixed_precision_where_that_is_fast(monkeypatch, fast):
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda: fast, raising=False)
    for enabled in (True, False):
        with autocast(CPU, enabled):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if fast and enabled else torch.float32)
