"""A run that was interrupted goes on to the same result, and the command that makes the weights."""

import numpy as np
import pytest
import torch

from stemkit.denoising import load_weights
from stemkit.denoising.general import train_general
from stemkit.denoising.training import SynthesisSource, train
from stemkit.denoising.weights import NetworkInfo
from stemkit.synthesis import Recipe

INFO = NetworkInfo(4, 1, 2, ("enhance", "detect", "superresolve"))
CPU = torch.device("cpu")


def source():
    return SynthesisSource(Recipe(spacing=(6.0, 10.0)), INFO.outputs, batch_size=2, crop_sizes=(32, 48))


class InterruptedRunError(RuntimeError):
    pass


class FailingSource:
    """Stops the run after some batches, as a user would."""

    def __init__(self, after):
        self.inner, self.after, self.left, self.taught = source(), after, after, INFO.outputs

    def draw(self, generator):
        self.left -= 1
        if self.left < 0:
            raise InterruptedRunError(f"after {self.after} batches")
        return self.inner.draw(generator)


def run(src, checkpoint=None):
    return train(
        INFO, src, device=CPU, seed=4, max_epochs=3, batches_per_epoch=3, lr=1e-3, checkpoint=checkpoint, verbose=0
    )


def test_goes_on_after_an_interruption_to_the_same_result(tmp_path):
    straight = run(source())
    path = tmp_path / "run.checkpoint"
    with pytest.raises(InterruptedRunError, match="after 5 batches"):
        run(FailingSource(after=5), path)
    assert path.exists()
    resumed = run(source(), path)
    assert len(resumed.history) == 3
    for key, value in straight.module_.state_dict().items():
        assert torch.equal(value, resumed.module_.state_dict()[key]), key


def test_every_epoch_draws_other_images():
    net = run(source())
    assert len(set(np.round(net.history[:, "train_loss"], 12))) == 3


def test_the_weights_that_ship_can_be_made_again(tmp_path):
    path = train_general(
        tmp_path, max_epochs=1, batches_per_epoch=1, width=4, n_blocks=1, seed=9, device="cpu", verbose=0
    )
    module, info = load_weights(path)
    assert (info.training["seed"], info.width, module.downsampling) == (9, 4, 2)
    card = path.with_suffix(".md").read_text()
    assert "stemkit train --epochs 1 --batches 1 --lr 0.004 --seed 9 --width 4 --blocks 1 --downsampling 2" in card


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    arguments = {"max_epochs": 1, "batches_per_epoch": 1, "width": 4, "n_blocks": 1, "device": "cpu", "verbose": 0}
    train_general(tmp_path, seed=1, **arguments)
    with pytest.raises(ValueError, match="remove the checkpoint to begin again"):
        train_general(tmp_path, seed=2, **arguments)
