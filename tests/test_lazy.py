"""Lazy images: transform of dask arrays, on threads, processes and a cluster."""

import os
import pickle
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import joblib
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import stemkit
from stemkit import (
    ABSFDenoiser,
    AtomDetector,
    NLMDenoiser,
    NoiseCalibrator,
    NoiseModel,
    PeriodicDenoiser,
    PointwiseNoise,
    RowAligner,
    SFINDenoiser,
    STEMSynthesizer,
    WienerDenoiser,
)
from stemkit.cli import main
from stemkit.detection.exports import read_columns
from stemkit.estimators import ImageTransformer
from stemkit.synthesis import lattice, planar_cell

da = pytest.importorskip("dask.array")

DENOISERS = [SFINDenoiser(), WienerDenoiser(), ABSFDenoiser(), NLMDenoiser(), PeriodicDenoiser(n_neighbors=12)]
IMAGES = [*DENOISERS, NoiseCalibrator(), RowAligner()]


def name(estimator):
    return type(estimator).__name__


@pytest.fixture(scope="module")
def stack():
    crystal = lattice(planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.6]), (64, 72), spacing=9.0)
    noise = NoiseModel(contrast=500.0, level=100.0, pointwise=PointwiseNoise(readout=0.1))
    synthesizer = STEMSynthesizer(shape=(64, 72), noise=noise, pixel_size=0.02, random_state=2)
    frames = synthesizer.record(crystal, 3)["noisy"].rename(image="frame").drop_vars("arrangement")
    return frames.assign_coords(time=("frame", [0.0, 0.5, 1.0], {"units": "s"})).rename("scan")


@pytest.fixture(scope="module")
def lazy(stack):
    return stack.chunk({"frame": 2, "y": 30})


def assert_same(result, expected):
    computed = result.compute()
    xr.testing.assert_allclose(computed, expected, rtol=1e-6, atol=1e-6 * float(np.abs(expected).max()))
    assert (computed.dtype, computed.name, computed.attrs) == (expected.dtype, expected.name, expected.attrs)
    assert set(computed.coords) == set(expected.coords)


class TestTransform:
    @pytest.mark.parametrize("estimator", IMAGES, ids=name)
    def test_it_stays_lazy_and_gives_what_the_eager_path_gives(self, estimator, stack, lazy):
        fitted = clone(estimator).fit(stack)
        result = fitted.transform(lazy)
        assert result.chunks == ((1, 1, 1), (64,), (72,))
        assert all(result.coords[c].chunks for c in result.coords if result.coords[c].ndim == 3)
        assert_same(result, fitted.transform(stack))

    @pytest.mark.parametrize("estimator", [WienerDenoiser(), NoiseCalibrator()], ids=name)
    def test_single_images_and_images_without_a_mode_or_a_pixel_size(self, estimator, stack):
        bare = xr.DataArray(-stack.values.astype(np.float32), dims=("image", "y", "x"))
        fitted = clone(estimator).set_params(mode="bf").fit(bare)
        assert_same(fitted.transform(bare.chunk()), fitted.transform(bare))
        assert_same(fitted.transform(bare[0].chunk()), fitted.transform(bare[0]))

    @pytest.mark.filterwarnings("ignore:the image has no mode:UserWarning")
    def test_the_mode_is_inferred_as_in_the_eager_path(self, stack):
        dark = stack.copy(data=-stack.values)
        del dark.attrs["mode"]
        result = WienerDenoiser().fit(dark).transform(dark.chunk())
        assert result.attrs["mode"] == "bf"

    def test_images_keep_their_own_noise_models(self, stack, lazy):
        calibrator = NoiseCalibrator().fit(stack)
        result = SFINDenoiser().fit(stack).transform(calibrator.transform(lazy))
        expected = calibrator.transform(stack)
        assert result.attrs["noise"] == expected.attrs["noise"]
        assert len(set(result.attrs["noise"])) == 3

    def test_only_images_that_are_needed_are_computed(self, stack):
        read = []

        def block(block_info=None):
            i = block_info[None]["array-location"][0][0]
            read.append(i)
            return stack.values[i : i + 1]

        pixels = da.map_blocks(block, chunks=((1, 1, 1), (64,), (72,)), dtype=stack.dtype, meta=np.empty((0, 0, 0)))
        images = stack.copy(data=pixels)
        result = WienerDenoiser().fit(images).transform(images)
        assert read == []
        result[1].compute()
        assert read == [1]

    def test_errors_name_what_is_wrong(self, lazy):
        denoiser = WienerDenoiser().fit(lazy)
        with pytest.raises(ValueError, match="must have dims"):
            denoiser.transform(lazy.transpose("y", "x", "frame"))
        bad = lazy.copy(data=da.where(lazy.data > 550, np.nan, lazy.data))
        with pytest.raises(ValueError, match="must be finite"):
            denoiser.transform(bad).compute()

    @pytest.mark.slow
    def test_fit_gives_the_same(self, stack, lazy):
        for estimator in (NoiseCalibrator(), RowAligner(), AtomDetector()):
            one, other = clone(estimator).fit(stack), clone(estimator).fit(lazy)
            for attribute in ("noise_model_", "width_", "spacing_", "n_images_"):
                assert getattr(one, attribute, None) == getattr(other, attribute, None)

    def test_every_estimator_of_images_is_lazy(self):
        public = [getattr(stemkit, n) for n in stemkit.__all__]
        found = {c for c in public if isinstance(c, type) and issubclass(c, ImageTransformer)}
        averages = {"SeriesAligner"}
        assert {type(e) for e in [*IMAGES, AtomDetector()]} <= found
        for estimator in found:
            if estimator.__name__ not in averages | {"AtomDetector"}:
                assert hasattr(estimator.transform, "__wrapped__"), estimator


@pytest.mark.slow
def test_columns_of_a_lazy_stack_are_one_table(stack, lazy):
    shown, lazily = (SFINDenoiser().fit(stack).transform(images) for images in (stack, lazy))
    detector = AtomDetector().fit(shown)
    table = detector.transform(lazily)
    pd.testing.assert_frame_equal(table, detector.transform(shown), rtol=1e-6)
    assert table.attrs["unit"] == "nm"


# --- threads and processes ---------------------------------------------------------------------------------------


def transformed(estimator, image):
    return np.asarray(estimator.transform(image))


@pytest.fixture(scope="module")
def fitted(stack):
    return [SFINDenoiser().fit(stack), WienerDenoiser().fit(stack), AtomDetector().fit(stack)]


@pytest.mark.slow
def test_two_threads_with_one_fitted_estimator(stack, fitted):
    for estimator in fitted:
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(lambda image, e=estimator: transformed(e, image), [stack[0], stack[1]] * 2))
        for found, image in zip(both, [stack[0], stack[1]] * 2, strict=True):
            np.testing.assert_array_equal(found, transformed(estimator, image))


@pytest.mark.slow
def test_two_jobs_of_joblib(stack, fitted):
    for estimator in fitted:
        results = joblib.Parallel(n_jobs=2)(joblib.delayed(transformed)(estimator, image) for image in stack)
        for result, image in zip(results, stack, strict=True):
            np.testing.assert_allclose(result, transformed(estimator, image), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes(method, stack, fitted):
    context = get_context(method)
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sending, pickle.dumps(fitted), pickle.dumps(stack[0])))
    process.start()
    sending.close()
    results = receiving.recv()
    process.join()
    for result, estimator in zip(results, fitted, strict=True):
        np.testing.assert_allclose(result, transformed(estimator, stack[0]), rtol=1e-6, atol=1e-6)


def _send(sending, estimators, image):
    image = pickle.loads(image)
    sending.send([np.asarray(e.transform(image)) for e in pickle.loads(estimators)])
    sending.close()


# --- a cluster ---------------------------------------------------------------------------------------------------


class Counted(WienerDenoiser):
    """A denoiser that writes into a file in which processes it was received."""

    log = ""

    def __setstate__(self, state):
        super().__setstate__(state)
        with open(state["log"], "a") as file:
            file.write(f"{os.getpid()}\n")


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    distributed = pytest.importorskip("distributed")
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    where = tmp_path_factory.mktemp("cluster")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=where
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.filterwarnings("ignore")
class TestCluster:
    @pytest.mark.slow
    def test_results_are_the_same_and_weights_are_not_sent_with_each_image(self, client, stack, tmp_path):
        path = stemkit.write(stack, tmp_path / "stack.zarr")
        images = stemkit.read(path, lazy=True)
        denoiser = Counted().fit(stack)
        denoiser.log = str(tmp_path / "log")
        many = xr.concat([images] * 4, "frame")
        result = denoiser.transform(many).compute()
        np.testing.assert_allclose(result.values[:3], denoiser.transform(stack).values, rtol=1e-6)
        workers = set(client.run(os.getpid).values())
        received = Counter(int(line) for line in (tmp_path / "log").read_text().split())
        # with the task, and once more where the scheduler moves its result to another worker
        assert all(1 <= received[pid] <= 2 for pid in workers)

    def test_no_file_is_open_when_images_are_sent(self, client, stack, tmp_path):
        path = stemkit.write(stack, tmp_path / "stack.hspy")
        images = stemkit.read(path, lazy=True)
        np.testing.assert_array_equal(images.compute().values, stack.values)
        if sys.platform == "linux":
            for files in client.run(_open_files).values():
                assert not [f for f in files if f.endswith("stack.hspy")]

    @pytest.mark.slow
    def test_a_search_of_hyperparameters_gives_what_one_process_gives(self, client, stack):
        searches = []
        for backend in ("dask", "sequential"):
            search = GridSearchCV(WienerDenoiser(), {"smoothing": [0.0, 2.0]}, cv=3)
            with joblib.parallel_config(backend=backend):
                searches.append(search.fit(stack.drop_vars("time"), stack.drop_vars("time")))
        scores = [search.cv_results_["mean_test_score"] for search in searches]
        np.testing.assert_allclose(*scores, rtol=1e-6)

    @pytest.mark.slow
    def test_commands_give_what_one_process_gives(self, client, stack, tmp_path):
        path = stemkit.write(stack, tmp_path / "stack.zarr")
        for verb, name, *options in (("enhance", "enhanced.zarr"), ("detect", "columns.parquet", "--per-frame")):
            for folder, more in (("one", []), ("cluster", ["--scheduler", client.scheduler.address])):
                assert main([verb, str(path), "-o", str(tmp_path / folder / name), *options, *more]) == 0
        one, cluster = (stemkit.read(tmp_path / folder / "enhanced.zarr") for folder in ("one", "cluster"))
        np.testing.assert_allclose(cluster.values, one.values, rtol=1e-6)
        one, cluster = (read_columns(tmp_path / folder / "columns.parquet") for folder in ("one", "cluster"))
        pd.testing.assert_frame_equal(cluster, one, rtol=1e-6)
        assert len(one) > 100

    @pytest.mark.slow
    def test_a_command_is_a_process_of_its_own_and_outlives_a_worker(self, client, stack, tmp_path):
        # in this process, dask would find the client of the fixture
        path, out = stemkit.write(stack, tmp_path / "stack.zarr"), tmp_path / "out.zarr"
        command = ["enhance", str(path), "-o", str(out), "--scheduler", client.scheduler.address]
        process = subprocess.Popen([sys.executable, "-m", "stemkit", *command], stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (tmp_path / ".out.zarr.unfinished" / "finished").exists():
            time.sleep(0.01)
        if process.poll() is None:
            os.kill(min(client.run(os.getpid).values()), 9)
        _, messages = process.communicate(timeout=200)
        assert process.returncode == 0, messages
        np.testing.assert_allclose(stemkit.read(out).values, SFINDenoiser().fit_transform(stack).values, rtol=1e-5)

    @pytest.mark.slow
    def test_a_scheduler_that_does_not_answer_is_named(self, client, stack, tmp_path, capsys):
        import dask

        path = stemkit.write(stack, tmp_path / "stack.zarr")
        with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
            code = main(["enhance", str(path), "-o", str(tmp_path / "o.zarr"), "--scheduler", "tcp://127.0.0.1:9"])
        assert code == 1
        assert "tcp://127.0.0.1:9" in capsys.readouterr().err

    @pytest.mark.slow
    def test_workers_have_one_thread(self, client):
        import torch

        assert set(client.run(torch.get_num_threads).values()) == {1}


def _open_files():
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if os.path.lexists(link)]
