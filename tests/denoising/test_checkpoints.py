"""Trainings that are killed resume from their checkpoint, and no two write the same one."""

import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from stemkit import SFINDenoiser
from stemkit.atomic import exclusive

TINY = {
    "weights": None,
    "n_channels": 4,
    "n_blocks": 1,
    "max_epochs": 3,
    "batches_per_epoch": 1,
    "batch_size": 2,
    "crop_size": 32,
    "random_state": 0,
}


def pairs():
    true_image = np.add.outer(np.cos(np.arange(48) / 2), np.cos(np.arange(48) / 2))
    noisy = true_image + np.random.default_rng(0).normal(0.0, 0.2, (2, 48, 48))
    return noisy, np.stack([true_image, true_image])


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no signals")
def test_a_resumed_training_gives_the_network_of_an_uninterrupted_one(tmp_path):
    noisy, true_image = pairs()
    np.savez(tmp_path / "pairs.npz", noisy=noisy, true_image=true_image)
    code = f"""
        import os, signal, numpy as np
        from stemkit import SFINDenoiser
        from stemkit.denoising import callbacks
        class Killed(callbacks.Checkpoint):
            def on_epoch_end(self, net, **kwargs):
                super().on_epoch_end(net, **kwargs)
                if len(net.history) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
        from stemkit.denoising import training
        training.Checkpoint = Killed
        pairs = np.load("pairs.npz")
        SFINDenoiser(**{TINY!r}, mode="haadf", checkpoint="c").fit(pairs["noisy"], pairs["true_image"])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    resumed = SFINDenoiser(**TINY, mode="haadf", checkpoint=tmp_path / "c").fit(noisy, true_image)
    whole = SFINDenoiser(**TINY, mode="haadf").fit(noisy, true_image)
    assert len(resumed.history_) == 3
    np.testing.assert_allclose(resumed.history_["train_loss"], whole.history_["train_loss"], rtol=1e-5)
    np.testing.assert_allclose(resumed.transform(noisy), whole.transform(noisy), rtol=1e-4, atol=1e-4)
    assert sorted(os.listdir(tmp_path)) == ["c", "pairs.npz"]


def test_a_checkpoint_has_one_writer(tmp_path):
    noisy, true_image = pairs()
    with exclusive(tmp_path / "c"), pytest.raises(FileExistsError, match="give each its own file"):
        SFINDenoiser(**TINY, mode="haadf", checkpoint=tmp_path / "c").fit(noisy, true_image)
    assert os.listdir(tmp_path) == []


def test_one_of_many_processes_gets_the_lock(tmp_path):
    def write(_):
        try:
            with exclusive(tmp_path / "c"):
                (tmp_path / "held").open("x").close()
                (tmp_path / "held").unlink()
                return True
        except FileExistsError as error:
            assert "another process or thread" in str(error)  # noqa: PT017 (of each thread)
            return False

    with ThreadPoolExecutor(4) as pool:
        assert any(pool.map(write, range(50)))


@pytest.mark.skipif(os.name == "nt", reason="no signals")
def test_the_lock_of_a_killed_process_is_replaced(tmp_path):
    code = """
        import os, pathlib, signal
        from stemkit.atomic import exclusive
        with exclusive(pathlib.Path("c")):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, check=False)
    assert os.listdir(tmp_path) == [".c.lock"]
    with exclusive(tmp_path / "c"):
        pass
    assert os.listdir(tmp_path) == []
