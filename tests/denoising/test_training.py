"""An interrupted training that resumes has the same result; the command that trains the weights."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stemkit.denoising import load_weights
from stemkit.denoising.callbacks import Schedule
from stemkit.denoising.general import train_general
from stemkit.denoising.sources import PairSource, SynthesisSource, TrainingBatch
from stemkit.denoising.training import TrainingSchedule, train
from stemkit.denoising.weights import NetworkInfo
from stemkit.synthesis import Recipe

INFO = NetworkInfo(4, 1, 2, ("enhance", "detect", "superresolve"))
CPU = torch.device("cpu")


def source():
    return SynthesisSource(Recipe(spacing=(6.0, 10.0)), INFO.outputs, batch_size=2, crop_sizes=(32, 48))


class Failing:
    """Stops the run after so many parts of batches, as a user would."""

    def __init__(self, after, error=KeyboardInterrupt):
        self.inner, self.left, self.error = source(), after, error
        self.target_names, self.batch_size = self.inner.target_names, self.inner.batch_size
        self.validation_source = self.inner

    fingerprint = property(lambda self: self.inner.fingerprint)

    def draw(self, generator, n):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return self.inner.draw(generator, n)


def run(src, checkpoint=None, **options):
    lengths = {"max_epochs": 3, "batches_per_epoch": 3, "lr": 1e-3}
    names = {field.name for field in dataclasses.fields(TrainingSchedule)}
    schedule = TrainingSchedule(**lengths | {name: value for name, value in options.items() if name in names})
    rest = {name: value for name, value in options.items() if name not in names}
    return train(INFO, src, schedule, device=CPU, checkpoint=checkpoint, **{"seed": 4, "verbose": 0} | rest)


def alike(first, second):
    states = first.module_.state_dict(), second.module_.state_dict()
    return all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_training_resumes_to_the_same_result(tmp_path, error):
    straight = run(source())
    path = tmp_path / "run.checkpoint"
    with pytest.raises(error):
        run(Failing(10, error), path)
    assert path.exists()
    resumed = run(source(), path)
    assert len(resumed.history) == 3
    assert alike(straight, resumed)


@pytest.mark.slow
def test_a_training_in_pieces_gives_the_same_result(tmp_path):
    straight, path = run(source()), tmp_path / "run.checkpoint"
    for done in (1, 2, 3):
        piece = run(source(), path, minutes=0.0)
        assert len(piece.history) == done
    assert alike(straight, piece)
    # what is complete is not trained any further
    assert alike(straight, run(source(), path))


def test_the_result_does_not_depend_on_the_number_of_threads():
    n = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run(source())
        torch.set_num_threads(2)
        assert alike(one, run(source()))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n)


class Constant:
    """Crops of one image at positions that the generator chooses; validation uses the negative image."""

    target_names, batch_size, fingerprint = INFO.outputs, 2, "constant"

    def __init__(self, sign=1.0):
        self.sign = sign
        self.image = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))

    @property
    def validation_source(self):
        return Constant(-self.sign)

    def draw(self, generator, n):
        at = torch.randint(48, (n, 2), generator=generator).tolist()
        images = torch.stack([self.image[y : y + 16, x : x + 16] for y, x in at])[:, None]
        maps = (3 * self.sign * images).expand(-1, 3, -1, -1)
        return TrainingBatch(images, maps, torch.ones(n), torch.ones_like(maps), torch.zeros(n, dtype=torch.bool))


def step(seeds, batch_size):
    """Gradients and batch norms' statistics after a step on parts that are drawn from some seeds."""
    source = Constant()
    source.batch_size = batch_size
    net = run(source, max_epochs=0)
    net.parallel_map = lambda work, tasks: [work(task) for task in tasks]
    net.history.new_epoch()
    net.history.new_batch()
    net.train_step_single(torch.tensor(seeds))
    gradients = [parameter.grad for parameter in net.module_.parameters()]
    return gradients + [buffer for buffer in net.module_.buffers() if buffer.is_floating_point()]


def test_a_step_is_the_mean_of_those_of_its_parts():
    both, first, second = step([1, 2], 2), step([1], 1), step([2], 1)
    assert not all(torch.allclose(one, other) for one, other in zip(first, second, strict=True))
    for mean, one, other in zip(both, first, second, strict=True):
        assert torch.allclose(mean, (one + other) / 2, atol=1e-5)


def test_the_best_network_is_kept():
    net = run(Constant(), max_epochs=4, lr=0.01)
    losses = net.history[:, "valid_loss"]
    assert list(losses) == sorted(losses)
    assert losses[0] < losses[-1]
    assert alike(net, run(Constant(), max_epochs=4, lr=0.01, minutes=0.0))


def test_patience_ends_training():
    net = run(Constant(), max_epochs=30, lr=0.01, patience=2)
    losses = net.history[:, "valid_loss"]
    assert len(losses) < 30
    assert int(np.argmin(losses)) == len(losses) - 3


def test_defects_have_a_larger_weight():
    recipe = Recipe(("lattice",), (9.0, 9.0), vacancies=0.9, strain=0.0, islands=0.0)
    plain, emphasised = (SynthesisSource(recipe, ("enhance",), 6, [48], emphasis) for emphasis in (0.0, 3.0))
    first, second = (s.draw(torch.Generator().manual_seed(1), 6) for s in (plain, emphasised))
    assert torch.equal(first.inputs, second.inputs)
    assert bool((first.weight == 1).all())
    weight = second.weight
    assert float(weight.min()) >= 1.0
    assert 2.5 < float(weight.max()) <= 4.0
    # what counts more is a part of the image, around what was done
    assert 0.02 < float((weight > 2).float().mean()) < 0.5


def test_one_pair_in_ten_is_held_back():
    images = [np.full((16, 16), k, dtype=float) for k in range(20)]
    pairs = PairSource(images, images, 4, 16, 2, CPU)
    assert [float(i[0, 0]) for i in pairs.noisy] == list(range(18))
    assert pairs.validation_source is not None
    assert [float(i[0, 0]) for i in pairs.validation_source.noisy] == [18, 19]
    assert PairSource(images[:9], images[:9], 4, 16, 2, CPU).validation_source is None


def test_every_step_draws_other_images():
    seen = []

    class Watched(Failing):
        def draw(self, generator, n):
            seen.append(generator.initial_seed())
            return super().draw(generator, n)

    run(Watched(1000), max_epochs=3, batches_per_epoch=3)
    # three epochs of three batches in two parts; those of validation are drawn by ``validation_source``
    assert len(set(seen)) == len(seen) == 3 * 3 * 2


def test_a_run_that_patience_has_ended_stays_ended(tmp_path):
    settings = {"max_epochs": 30, "lr": 0.01, "patience": 2, "checkpoint": tmp_path / "run.checkpoint"}
    first = run(Constant(), **settings)
    again = run(Constant(), **settings)
    assert len(first.history) == len(again.history) < 30
    assert alike(first, again)


@pytest.mark.parametrize("other", ["recipe", "emphasis", "lr", "start"])
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, other):
    path = tmp_path / "run.checkpoint"
    first = run(source(), path, minutes=0.0)
    changed, options = source(), {}
    if other == "recipe":
        changed = SynthesisSource(Recipe(spacing=(7.0, 10.0)), INFO.outputs, 2, (32, 48))
    elif other == "emphasis":
        changed.emphasis = 2.0
    elif other == "lr":
        options = {"lr": 2e-3}
    else:
        options = {"module": first.module_}
    with pytest.raises(ValueError, match="remove the checkpoint to begin again"):
        run(changed, path, **options)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="remove it to begin again"):
        run(source(), path)


def test_settings_may_be_numbers_of_numpy(tmp_path):
    path, options = tmp_path / "run.checkpoint", {"lr": np.float64(1e-3), "max_epochs": np.int64(2)}
    run(source(), path, minutes=0.0, **options)
    assert len(run(source(), path, **options).history) == 2


def test_the_command_of_the_shipped_weights_trains_such_weights(tmp_path):
    path = train_general(
        tmp_path, max_epochs=1, batches_per_epoch=1, n_channels=4, n_blocks=1, seed=9, device="cpu", verbose=0
    )
    module, info = load_weights(path)
    assert (info.training["seed"], info.n_channels, module.downsampling) == (9, 4, 2)
    card = path.with_suffix(".md").read_text()
    assert "stemkit train --epochs 1 --batches 1 --lr 0.003 --seed 9 --channels 4 --blocks 1 --downsampling 2" in card


def test_weights_contain_the_record_of_their_training(tmp_path):
    arguments = {"max_epochs": 1, "batches_per_epoch": 1, "device": "cpu", "verbose": 0}
    first = train_general(tmp_path / "first", n_channels=4, n_blocks=1, seed=1, **arguments)
    second = train_general(
        tmp_path / "second", weights=first, n_channels=4, emphasis=2.0, crop_sizes=[32, 64], seed=2, **arguments
    )
    assert second.name == first.name
    _, info = load_weights(second)
    assert info.n_channels == 4
    assert info.training["before"]["sha256"] == load_weights(first)[1].sha256
    card = second.with_suffix(".md").read_text()
    assert "--seed 1 --channels 4 --blocks 1" in card
    assert "--seed 2 --crops 32 64 --emphasis 2 --weights " in card
    assert "in all at most 32" in card
    with pytest.raises(ValueError, match=r"crop_sizes must be multiples of 16 .* one is 100"):
        train_general(tmp_path / "third", weights=first, crop_sizes=[100], **arguments)
    with pytest.raises(ValueError, match="n_channels must be that of the weights, 4, but is 8"):
        train_general(tmp_path / "third", weights=first, n_channels=8, **arguments)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    arguments = {"max_epochs": 1, "batches_per_epoch": 1, "n_channels": 4, "n_blocks": 1, "device": "cpu", "verbose": 0}
    train_general(tmp_path, seed=1, **arguments)
    with pytest.raises(ValueError, match="remove the checkpoint to begin again"):
        train_general(tmp_path, seed=2, **arguments)


@pytest.mark.parametrize("inner", [source, Constant])
def test_a_training_that_diverges_ends_with_an_error(tmp_path, inner):
    checkpoint = tmp_path / "run.checkpoint"
    with pytest.raises(ValueError, match=r"diverged in epoch 1 \(train_loss .*, valid_loss .*not finite\).*lr=1e\+30"):
        run(inner(), checkpoint, lr=1e30)
    assert not checkpoint.exists()


def test_a_checkpoint_in_a_missing_folder_is_refused_before_training(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        run(Failing(0, AssertionError), tmp_path / "missing" / "run.checkpoint")


@pytest.mark.parametrize("steps_before", [0, 5])
def test_the_learning_rate_is_0_when_the_time_is_over(steps_before, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("stemkit.denoising.callbacks.time.monotonic", lambda: clock[0])
    net = SimpleNamespace(
        history=[{"train_batch_count": steps_before}], optimizer_=SimpleNamespace(param_groups=[{"lr": 0.0}])
    )
    rates = {}
    for minutes in (None, 2.0):
        schedule = Schedule(0.01, 1000, minutes)
        clock[0] = 100.0
        schedule.on_train_begin(net)
        for seconds in range(0, 121, 10):
            clock[0] = 100.0 + seconds
            schedule.on_batch_begin(net, training=True)
            rates[minutes, seconds] = net.optimizer_.param_groups[0]["lr"]
    steps = [rates[None, seconds] for seconds in range(0, 121, 10)]
    timed = [rates[2.0, seconds] for seconds in range(0, 121, 10)]
    # thirteen steps of a thousand are within the warm-up
    assert steps == pytest.approx([0.01 * (steps_before + k + 1) / 20 for k in range(13)])
    if steps_before:
        # a run that resumes follows the steps alone
        assert timed == steps
    else:
        assert timed[1:] == pytest.approx([0.005 * (1 + math.cos(math.pi * k / 12)) for k in range(1, 13)])


def test_a_batch_has_at_least_one_image(tmp_path):
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, but is 0"):
        train_general(tmp_path, batch_size=0)


def test_batch_size_and_minutes_are_in_the_model_card(tmp_path):
    small = {"n_channels": 4, "n_blocks": 1, "batches_per_epoch": 1, "crop_sizes": (32,), "device": "cpu", "verbose": 0}
    path = train_general(tmp_path, **small, batch_size=3, minutes=1e-6)
    card = path.with_suffix(".md").read_text()
    assert "--crops 32 --batch-size 3 --minutes 1e-06" in card
    assert "of up to 3; in all at most 3" in card
