"""Contract 2: scikit-learn's estimators, to the letter."""

import pickle
import warnings

import numpy as np
import pytest
import xarray as xr
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
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
    WienerDenoiser: ANY_WIDTH | NOT_SAMPLES | OUR_OWN,
    ABSFDenoiser: ANY_WIDTH | NOT_SAMPLES | OUR_OWN,
    # the images of the others are narrower than a patch
    NLMDenoiser: ANY_WIDTH | OUR_OWN,
    PeriodicDenoiser: ANY_WIDTH | OUR_OWN,
    FCNDenoiser: ANY_WIDTH | NOT_SAMPLES | OUR_OWN,
    AtomSegNetDenoiser: ANY_WIDTH | NOT_SAMPLES | OUR_OWN,
    # the images of the other check are noise, which has no columns, and no part of it has
    AtomDetector: ANY_WIDTH | ORDER | OUR_OWN | A_TABLE,
}
#: As small as can be: each check trains some.
TINY = {"width": 4, "max_epochs": 1, "batches_per_epoch": 1, "batch_size": 1, "crop_size": 32}
PARAMETERS = {FCNDenoiser: {"n_layers": 2, **TINY}, AtomSegNetDenoiser: TINY}
ESTIMATORS = [estimator(**PARAMETERS.get(estimator, {})) for estimator in EXPECTED_FAILURES]


def expected_failures(estimator):
    return EXPECTED_FAILURES[type(estimator)]


@pytest.mark.filterwarnings("ignore:the image is .* px:UserWarning")
@pytest.mark.filterwarnings("ignore:the image has no mode:UserWarning")
@pytest.mark.filterwarnings("ignore:no lattice of columns was found:UserWarning")
@pytest.mark.filterwarnings("ignore:y .*there is no truth to score against:UserWarning")
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
        one, many = noisy[0].values, noisy.values
        estimator = clone(estimator).set_params(mode="haadf")
        assert isinstance(estimator.fit_transform(one), np.ndarray)
        assert estimator.fit_transform(many).shape == many.shape
        sizes = [noisy[0], noisy[1][:50, :41], one[:33]]
        results = estimator.fit_transform(sizes)
        assert [type(r) for r in results] == [xr.DataArray, xr.DataArray, np.ndarray]
        assert [r.shape for r in results] == [(64, 64), (50, 41), (33, 64)]

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
    assert isinstance(result, np.ndarray) == (not isinstance(estimator, AtomDetector))


def test_small_images_are_warned_of():
    with pytest.warns(UserWarning, match="under 32 px"):
        NoiseCalibrator(mode="haadf").fit(np.random.default_rng(0).normal(size=(20, 20)))


class TestPipeline:
    STEPS = (("noise", NoiseCalibrator()), ("denoise", SFINDenoiser()), ("atoms", AtomDetector()))

    def test_the_sentence_that_everything_serves(self, noisy):
        columns = Pipeline(list(self.STEPS)).fit_transform(noisy)
        assert set(columns["image"]) == {0, 1}
        assert {"y", "x", "y_err", "x_err", "quality"} <= set(columns)

    def test_bare_arrays_go_through(self, noisy):
        assert len(Pipeline([(n, clone(s)) for n, s in self.STEPS]).fit_transform(noisy.values)) > 0

    def test_noise_and_measured_reach_the_detector(self, noisy):
        denoised = Pipeline(list(self.STEPS[:2])).fit_transform(noisy)
        assert len(denoised.attrs["noise"]) == 2
        np.testing.assert_array_equal(denoised.coords["recorded"], noisy)

    def test_another_pixel_size_is_refused(self, noisy):
        labelled = NoiseCalibrator().fit_transform(noisy[0])
        with pytest.raises(ValueError, match="run NoiseCalibrator again"):
            AtomDetector().fit(labelled[::2, ::2])


def test_a_denoiser_s_hyperparameters_can_be_searched():
    pairs = STEMSynthesizer(shape=(40, 40), random_state=0).sample(4)
    denoiser = SFINDenoiser(weights=None, max_epochs=1, batches_per_epoch=2, batch_size=2, crop_size=32, random_state=0)
    search = GridSearchCV(denoiser, {"width": [4, 8], "n_blocks": [1]}, cv=2)
    search.fit(pairs["noisy"], pairs["enhance"])
    assert search.best_params_["width"] in (4, 8)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.net_.head_conv.out_channels == search.best_params_["width"]


def test_cross_validation_trains_and_scores_the_shipped_network():
    pairs = STEMSynthesizer(shape=(64, 64), random_state=0).sample(4)
    denoiser = SFINDenoiser(max_epochs=1, batches_per_epoch=1, batch_size=2, crop_size=32, random_state=0)
    scores = cross_val_score(denoiser, pairs["noisy"], pairs["enhance"], cv=2)
    assert np.isfinite(scores).all()


def test_the_whole_pipeline_can_be_scored_on_true_columns():
    synthesizer = STEMSynthesizer(shape=(64, 64), arrangements=("lattice",), random_state=2)
    pairs, truth = synthesizer.sample(4, return_columns=True)
    tables = [truth[truth["image"] == i] for i in range(4)]
    scores = cross_val_score(Pipeline(list(TestPipeline.STEPS)), pairs["noisy"], tables, cv=2)
    assert ((scores > 0.5) & (scores <= 1)).all()


def test_no_estimator_takes_unnamed_parameters():
    for estimator in ESTIMATORS:
        with pytest.raises(TypeError, match="positional"):
            type(estimator)("something")


def test_nothing_is_announced_on_good_input(noisy):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stemkit.SFINDenoiser().fit_transform(noisy)
