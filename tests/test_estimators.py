"""Estimators of images follow scikit-learn's rules, alone, in pipelines and in searches."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import xarray as xr
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import stemkit
from stemkit import (
    ABSFDenoiser,
    AtomDetector,
    AtomSegNetDenoiser,
    FCNDenoiser,
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
from stemkit.images.provenance import check_noise_attr
from stemkit.metrics import psnr
from stemkit.synthesis import lattice, planar_cell

ANY_WIDTH = {
    "check_n_features_in": "images of any width are accepted",
    "check_n_features_in_after_fitting": "images of any width are accepted",
}
#: Calibrated noise leaves the pixels alone, so the calibrator passes these two.
ORDER = {"check_methods_sample_order_invariance": "rows of an image are not exchangeable"}
NOT_SAMPLES = ORDER | {"check_methods_subset_invariance": "part of an image is another image"}
OUR_OWN = {"check_transformer_general": "rows are not samples; see test_fit_transform_is_fit_and_transform"}
A_TABLE = {"check_transformer_data_not_an_array": "the output is a table"}
EXPECTED_FAILURES = {
    NoiseCalibrator: ANY_WIDTH | OUR_OWN,
    RowAligner: ANY_WIDTH | OUR_OWN,
    STEMSynthesizer: ANY_WIDTH,
    SFINDenoiser: ANY_WIDTH | NOT_SAMPLES | OUR_OWN,
    WienerDenoiser: ANY_WIDTH | NOT_SAMPLES,
    ABSFDenoiser: ANY_WIDTH | NOT_SAMPLES,
    # the images of the others are narrower than a patch
    NLMDenoiser: ANY_WIDTH,
    PeriodicDenoiser: ANY_WIDTH,
    FCNDenoiser: ANY_WIDTH | NOT_SAMPLES | OUR_OWN,
    AtomSegNetDenoiser: ANY_WIDTH | NOT_SAMPLES | OUR_OWN,
    # the images of the other check are noise, which has no columns, and no part of it has
    AtomDetector: ANY_WIDTH | ORDER | OUR_OWN | A_TABLE,
}
#: As small as can be: each check trains some.
TINY = {"n_channels": 4, "max_epochs": 1, "batches_per_epoch": 1, "batch_size": 1, "crop_size": 32}
PARAMETERS = {FCNDenoiser: {"n_layers": 2, **TINY}, AtomSegNetDenoiser: TINY}
ESTIMATORS = [estimator(**PARAMETERS.get(estimator, {})) for estimator in EXPECTED_FAILURES]


def expected_failures(estimator):
    return EXPECTED_FAILURES[type(estimator)]


@pytest.mark.filterwarnings("ignore:the image is .* px:UserWarning")
@pytest.mark.filterwarnings("ignore:the image has no mode:UserWarning")
@pytest.mark.filterwarnings("ignore:no lattice of columns was found:UserWarning")
@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)
def test_scikit_learn_s_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def noisy():
    crystal = lattice(planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.6]), (64, 64), spacing=9.0)
    noise = NoiseModel(pointwise=PointwiseNoise(readout=0.1))
    return STEMSynthesizer(shape=(64, 64), noise=noise, random_state=2).record(crystal, 2)["noisy"]


DENOISERS = [SFINDenoiser(), WienerDenoiser(), ABSFDenoiser(), NLMDenoiser(), PeriodicDenoiser()]
TRANSFORMERS = [NoiseCalibrator(), RowAligner(), *DENOISERS, AtomDetector()]


@pytest.mark.parametrize("estimator", TRANSFORMERS, ids=lambda e: type(e).__name__)
def test_fit_transform_is_fit_and_transform(estimator, noisy):
    together, apart = clone(estimator).fit_transform(noisy), clone(estimator).fit(noisy).transform(noisy)
    if isinstance(estimator, AtomDetector):
        assert together.equals(apart)
    else:
        xr.testing.assert_identical(together, apart)


@pytest.mark.parametrize("estimator", TRANSFORMERS, ids=lambda e: type(e).__name__)
def test_a_pickled_estimator_does_the_same(estimator, noisy):
    fitted = clone(estimator).fit(noisy)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(np.asarray(fitted.transform(noisy)), np.asarray(again.transform(noisy)))


@pytest.mark.parametrize("estimator", TRANSFORMERS[:-1], ids=lambda e: type(e).__name__)
class TestInIsOut:
    @pytest.mark.parametrize(
        ("dtype", "out"), [(np.float32, np.float32), (np.float64, np.float64), (np.uint16, np.float32)]
    )
    def test_dtype_dims_coords_attrs_and_name(self, estimator, noisy, dtype, out):
        X = (noisy[0] * 1000 + 2000).astype(dtype).assign_attrs(mode="haadf", sample="STO").rename("counts")
        result = clone(estimator).fit_transform(X)
        assert result.dtype == out
        assert (result.dims, result.name) == (X.dims, X.name)
        assert X.attrs.items() <= result.attrs.items()
        for dim in X.dims:
            xr.testing.assert_identical(result.coords[dim].variable, X.coords[dim].variable)

    def test_arrays_stacks_and_lists(self, estimator, noisy):
        estimator = clone(estimator).set_params(mode="haadf")
        bare = noisy.drop_vars(["y", "x"])
        stack = estimator.fit_transform(noisy.values)
        np.testing.assert_array_equal(stack, estimator.fit_transform(bare))
        results = estimator.fit_transform([noisy[0], noisy[1][:50, :41], noisy[0].values[:33]])
        assert [r.shape for r in results] == [(64, 64), (50, 41), (33, 64)]
        xr.testing.assert_identical(results[0], estimator.transform(noisy[0]))
        # what a plain array cannot carry, a DataArray does
        carries = not isinstance(estimator, RowAligner)
        for result in (stack, results[2]):
            assert isinstance(result, xr.DataArray if carries else np.ndarray)

    def test_a_constant_image_comes_back(self, estimator):
        result = clone(estimator).fit_transform(np.full((40, 40), 7.0))
        np.testing.assert_array_equal(result, 7.0)

    def test_the_input_is_left_alone(self, estimator, noisy):
        before = noisy.copy(deep=True)
        clone(estimator).fit_transform(noisy)
        xr.testing.assert_identical(noisy, before)


@pytest.mark.filterwarnings("ignore:the image is .* px:UserWarning")
@pytest.mark.filterwarnings("ignore:no lattice of columns was found:UserWarning")
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (3, 5), (7, 33)])
@pytest.mark.parametrize("estimator", TRANSFORMERS, ids=lambda e: type(e).__name__)
def test_there_is_no_smallest_size(estimator, shape):
    values = np.random.default_rng(0).normal(size=shape)
    result = clone(estimator).set_params(mode="haadf").fit_transform(values)
    if isinstance(estimator, AtomDetector):
        assert {"y_px", "x_px", "quality"} <= set(result)
    else:
        assert result.shape == shape
        assert np.isfinite(result).all()


def test_small_images_are_warned_of():
    with pytest.warns(UserWarning, match="under 32 px"):
        NoiseCalibrator(mode="haadf").fit(np.random.default_rng(0).normal(size=(20, 20)))


STEPS = {"noise": NoiseCalibrator(), "denoise": SFINDenoiser(), "atoms": AtomDetector()}


def pipeline(**steps):
    """The steps from an image to its table of columns, none of them fitted."""
    return Pipeline([(name, clone(step)) for name, step in (STEPS | steps).items()])


@pytest.fixture(scope="module")
def columns(noisy):
    return pipeline().fit_transform(noisy)


class TestPipeline:
    def test_finds_and_measures_the_columns_of_a_stack(self, noisy, columns):
        assert set(columns["image"]) == {0, 1}
        assert {"y", "x", "y_err", "x_err", "quality"} <= set(columns)
        # one column in each square of 9 px
        assert columns.groupby("image").size().between(45, 60).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("container", ["array", "list"])
    def test_plain_arrays_give_the_same_positions_and_errors(self, noisy, columns, container):
        given = noisy.values if container == "array" else list(noisy.values)
        found = pipeline().fit_transform(given)
        shared = ["image", "y_px", "x_px", "y_px_err", "x_px_err", "amplitude", "amplitude_err", "quality"]
        pd.testing.assert_frame_equal(found[shared], columns[shared], rtol=1e-6)
        # fits to the enhanced pixels, as if these were recorded, would state much smaller errors
        enhanced = pipeline()[:-1].fit_transform(noisy).values
        assert AtomDetector().fit_transform(enhanced)["y_px_err"].median() < 0.5 * found["y_px_err"].median()

    def test_noise_and_recorded_pixels_reach_the_detector(self, noisy):
        enhanced = pipeline()[:-1].fit_transform(noisy)
        assert len(enhanced.attrs["noise"]) == 2
        np.testing.assert_array_equal(enhanced.coords["recorded"], noisy)

    def test_the_enhanced_image_and_its_columns_without_enhancing_twice(self, noisy, columns):
        steps = pipeline()
        enhanced = steps[:-1].fit_transform(noisy)
        pd.testing.assert_frame_equal(steps[-1].fit_transform(enhanced), columns)

    def test_another_pixel_size_is_refused(self, noisy):
        labeled = NoiseCalibrator().fit_transform(noisy[0])
        with pytest.raises(ValueError, match="run NoiseCalibrator again"):
            AtomDetector().fit(labeled[::2, ::2])
        # the lengths of the noise are along the rows
        with pytest.raises(ValueError, match="run NoiseCalibrator again"):
            check_noise_attr(labeled[:, ::2])

    def test_output_in_pandas_is_not_applied_to_images(self, noisy, columns):
        with sklearn.config_context(transform_output="pandas"):
            pd.testing.assert_frame_equal(pipeline().fit_transform(noisy), columns)
        assert not hasattr(WienerDenoiser(), "set_output")

    @pytest.mark.skipif(sklearn.__version__.startswith("1.6."), reason="scikit-learn 1.6 stacks arrays of any shape")
    def test_a_feature_union_of_images_is_refused(self, noisy):
        # images are no rows of features; docs/conventions.rst says what to do instead
        with pytest.raises(ValueError, match="3 dimensions"):
            FeatureUnion([("wiener", WienerDenoiser()), ("absf", ABSFDenoiser())]).fit_transform(noisy)

    def test_is_shown_with_its_changed_parameters(self):
        shown = pipeline(denoise=SFINDenoiser(lattice="auto"))
        assert "SFINDenoiser(lattice='auto')" in repr(shown)
        html = shown._repr_html_()
        assert all(name in html for name in ("NoiseCalibrator", "SFINDenoiser", "AtomDetector", "lattice"))


@pytest.fixture(scope="module")
def crystals():
    """Recorded and true images of crystals, and their true columns as a list of tables."""
    synthesizer = STEMSynthesizer(
        shape=(64, 64), arrangements=("lattice",), spacing=(0.08, 0.14), random_state=2,
        noise=NoiseModel(pointwise=PointwiseNoise(readout=0.2)),
    )  # fmt: skip
    pairs, truth = synthesizer.sample(4, return_columns=True)
    return pairs["noisy"], pairs["enhance"], [truth[truth["image"] == i] for i in range(4)]


class TestCrossValidation:
    def test_of_the_shipped_network_does_not_train(self, crystals, monkeypatch):
        monkeypatch.setattr("stemkit.denoising.network.train", None)
        noisy, true_image, _ = crystals
        scores = cross_val_score(SFINDenoiser(), noisy, true_image, cv=2)
        folds = (slice(0, 2), slice(2, 4))
        assert scores == pytest.approx([SFINDenoiser().fit(noisy).score(noisy[f], true_image[f]) for f in folds])
        assert all(s > psnr(noisy[f], true_image[f]) + 3 for s, f in zip(scores, folds, strict=True))

    @pytest.mark.slow
    def test_of_a_pipeline_against_true_columns(self, crystals):
        noisy, _, tables = crystals
        scores = cross_val_score(pipeline(), noisy, tables, cv=2)
        assert ((scores > 0.7) & (scores <= 1)).all()
        assert (cross_val_score(pipeline(), noisy, tables[::-1], cv=2) < scores - 0.2).all()

    def test_with_a_score_of_one_s_own(self, crystals):
        def negative_mse(denoiser, X, y):
            return -float(np.mean((denoiser.transform(X).values - y.values) ** 2))

        noisy, true_image, _ = crystals
        before = -float(np.mean((noisy.values - true_image.values) ** 2))
        scores = cross_val_score(WienerDenoiser(), noisy, true_image, cv=2, scoring=negative_mse)
        assert ((scores > before) & (scores < 0)).all()


class TestGridSearch:
    @pytest.mark.slow
    def test_over_the_denoisers_of_a_pipeline(self, crystals, monkeypatch):
        monkeypatch.setattr("stemkit.denoising.network.train", None)
        noisy, _, tables = crystals
        methods = [SFINDenoiser(), WienerDenoiser(), NLMDenoiser(), "passthrough"]
        search = GridSearchCV(pipeline(), {"denoise": methods}, cv=2).fit(noisy, tables)
        results = search.cv_results_
        for method, score in zip(methods, results["mean_test_score"], strict=True):
            expected = cross_val_score(pipeline().set_params(denoise=method), noisy, tables, cv=2)
            assert score == pytest.approx(expected.mean())
        assert search.best_score_ == max(results["mean_test_score"]) > 0.8
        assert set(search.best_estimator_.transform(noisy)["image"]) == {0, 1, 2, 3}

    @pytest.mark.slow
    def test_over_the_parameters_of_a_pipeline(self, crystals):
        noisy, _, tables = crystals
        grid = {"denoise": ["passthrough"], "atoms__significance": [2.5, 1000.0]}
        search = GridSearchCV(pipeline(), grid, cv=2).fit(noisy, tables)
        assert search.best_params_["atoms__significance"] == 2.5
        assert search.cv_results_["mean_test_score"][1] < 0.5 < search.best_score_

    def test_over_the_architecture_of_a_network(self, crystals):
        noisy, true_image, _ = crystals
        denoiser = SFINDenoiser(
            weights=None, max_epochs=1, batches_per_epoch=4, batch_size=2, crop_size=32, random_state=0, device="cpu"
        )
        search = GridSearchCV(denoiser, {"n_channels": [2, 8], "n_blocks": [1]}, cv=2).fit(noisy, true_image)
        scores = search.cv_results_["mean_test_score"]
        assert len(set(scores)) == 2
        best = search.best_params_["n_channels"]
        assert best == [2, 8][int(np.argmax(scores))]
        assert search.best_estimator_.net_.head_conv.out_channels == best
        assert search.score(noisy, true_image) == pytest.approx(search.best_estimator_.score(noisy, true_image))


@pytest.mark.parametrize("denoiser", [WienerDenoiser(), ABSFDenoiser(), NLMDenoiser(), PeriodicDenoiser()])
def test_stateless_denoisers_need_no_fit(denoiser, noisy):
    xr.testing.assert_identical(denoiser.transform(noisy), clone(denoiser).fit(noisy).transform(noisy))


def test_no_estimator_takes_unnamed_parameters():
    for estimator in ESTIMATORS:
        with pytest.raises(TypeError, match="positional"):
            type(estimator)("something")


def test_nothing_is_announced_on_good_input(noisy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stemkit.SFINDenoiser().fit_transform(noisy)
