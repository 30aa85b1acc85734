"""Methods compared on simulated repeat frames, whose truth is known to the test alone."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from benchmark.repeated import Repeated, repeated
from scipy.ndimage import gaussian_filter
from strategies import SIGMAS

import stemkit
from stemkit.benchmark import FrameComparison, compare_frames, repeat_frames
from stemkit.benchmark.alignment import Alignment
from stemkit.benchmark.frame_report import frames_figure, printed_table, write_frames
from stemkit.benchmark.methods import compared_methods
from stemkit.benchmark.smoothing import SIGMAS as WIDTHS
from stemkit.benchmark.smoothing import GaussianFilter
from stemkit.cli import main

QUIET = {"calibrate": False, "mode": "haadf", "verbose": False}


class Filter:
    """A method that applies a function to the pixels."""

    def __init__(self, function):
        self.function = function

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X.copy(data=self.function(X.values))


METHODS = {
    "unchanged": Filter(lambda values: values.copy()),
    "narrow": GaussianFilter(0.5),
    "fitting": GaussianFilter(1.5),
    "wide": GaussianFilter(3.0),
    "far too wide": GaussianFilter(8.0),
    "half the contrast": Filter(lambda values: 0.5 * gaussian_filter(values, 1.5)),
    "wrong level": Filter(lambda values: 0.3 + gaussian_filter(values, 1.5)),
}


def alignment_of(comparison: FrameComparison, data: Repeated) -> Alignment:
    """The alignment that a comparison found, which need not be searched for again."""
    shifts = comparison.shifts[["y_px", "x_px"]].to_numpy()
    return Alignment(shifts, comparison.shifts["correlation"].to_numpy(), 1.0, data.frames.shape[1:])


def true_errors(data: Repeated, comparison: FrameComparison) -> pd.DataFrame:
    """Mean squared error of each method against each frame's true image, in the common area."""
    alignment = alignment_of(comparison, data)
    rows = {}
    for name, method in METHODS.items():
        denoised = [method.transform(xr.DataArray(frame, dims=("y", "x"))).values for frame in data.frames]
        rows[name] = [
            float(((denoised[i] - data.truths[i])[alignment.crop(i)] ** 2).mean()) for i in range(len(data.frames))
        ]
    return pd.DataFrame(rows)


def values(scores: pd.DataFrame, score: str) -> pd.Series:
    return scores[scores["score"] == score].set_index("method")["value"]


def errors(scores: pd.DataFrame, score: str) -> pd.Series:
    return scores[scores["score"] == score].set_index("method")["standard_error"]


@pytest.fixture(scope="module")
def data() -> Repeated:
    return repeated(seed=5, n=6)


@pytest.fixture(scope="module")
def comparison(data) -> FrameComparison:
    return compare_frames(data.frames, METHODS, **QUIET)


# --- scores against the truth ------------------------------------------------------------------------------------


N_SERIES = 12


@pytest.fixture(scope="module", params=[0.0, 0.15], ids=["pointwise noise", "streaks"])
def deviations(request) -> pd.DataFrame:
    """Estimated minus true error, the standard error and the true error, of independent series of five frames."""
    rows = []
    for seed in range(N_SERIES):
        series = repeated(seed=100 + seed, n=5, streaks=request.param, shape=(128, 135), radius=48.0)
        comparison = compare_frames(series.frames, METHODS, **QUIET)
        true = true_errors(series, comparison).mean()
        found, std = values(comparison.scores, "mse"), errors(comparison.scores, "mse")
        rows += [(seed, name, found[name] - true[name], std[name], true[name]) for name in METHODS]
    return pd.DataFrame(rows, columns=["series", "method", "deviation", "std", "true"])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_unbiased_error_agrees_with_the_true_one(deviations, method):
    found = deviations[deviations["method"] == method]
    std = found["deviation"].std() / np.sqrt(N_SERIES)
    assert abs(found["deviation"].mean()) < SIGMAS * std
    # precise enough for the correction to matter: the noise of the mean of four frames has a variance above 0.01
    assert SIGMAS * std < 0.2 * max(0.01, found["true"].mean())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_standard_error_is_at_least_the_spread_of_repeated_experiments(deviations, method):
    """The jackknife's variance is too large on average, never too small (Efron and Stein 1981).

    At most by a factor of ``3 (n - 1) / (n - 3)``, 6 for five frames, where the estimate depends on products of three
    frames alone. The standard deviation of 12 values has a sampling error of a fifth.
    """
    found = deviations[deviations["method"] == method]
    ratio = np.sqrt((found["std"] ** 2).mean()) / (found["deviation"] + found["true"]).std()
    assert 1 - 2 / 5 < ratio < np.sqrt(6) * (1 + 2 / 5)


def test_methods_are_ranked_as_their_true_errors_rank_them(data, comparison):
    """Smoothing and wrong intensities are not rewarded; the errors of the estimates are common to all methods."""
    true = true_errors(data, comparison).mean().sort_values()
    found = values(comparison.scores, "mse")[list(METHODS)].sort_values()
    assert list(found.index) == list(true.index)
    snr = values(comparison.scores, "snr dB")[list(METHODS)].sort_values(ascending=False)
    assert list(snr.index) == list(true.index)


def test_differences_of_errors_are_more_precise_than_the_errors(data, comparison):
    true = true_errors(data, comparison).mean()
    found, std = values(comparison.scores, "mse"), errors(comparison.scores, "mse")
    difference = (found["wide"] - found["fitting"]) - (true["wide"] - true["fitting"])
    assert abs(difference) < 2 * max(std["wide"], std["fitting"])


def test_the_ceiling_is_the_correlation_of_the_true_image_with_the_mean_of_the_others(data, comparison):
    alignment = alignment_of(comparison, data)
    true = []
    for i in range(len(data.frames)):
        others = np.delete(alignment.on_grid_of(i, data.frames), i, axis=0).mean(axis=0)
        true.append(np.corrcoef(data.truths[i][alignment.crop(i)].ravel(), others.ravel())[0, 1])
    found, std = (
        values(comparison.scores, "correlation")["ceiling"],
        errors(comparison.scores, "correlation")["ceiling"],
    )
    assert abs(found - np.mean(true)) < SIGMAS * std
    assert std < 0.02
    # a method that knew the truth would reach it, and none exceeds it
    assert (values(comparison.scores, "correlation")[list(METHODS)] < found + SIGMAS * std).all()


def test_the_correlation_with_the_truth_is_estimated(data, comparison):
    alignment = alignment_of(comparison, data)
    true = []
    for i, (frame, truth) in enumerate(zip(data.frames, data.truths, strict=True)):
        crop = alignment.crop(i)
        true.append(np.corrcoef(gaussian_filter(frame, 1.5)[crop].ravel(), truth[crop].ravel())[0, 1])
    found = values(comparison.scores, "correlation with truth")["fitting"]
    assert abs(found - np.mean(true)) < SIGMAS * errors(comparison.scores, "correlation with truth")["fitting"]


def test_a_method_that_returns_its_input_has_the_recorded_frame_s_scores(comparison):
    for score in ("correlation", "correlation with truth", "mse", "snr dB", "resolution px"):
        found = values(comparison.scores, score)
        assert found["unchanged"] == found["recorded"]
    each = comparison.frame_scores.pivot(index=["frame", "score"], columns="method", values="value")
    assert (each["unchanged"] == each["recorded"]).all()


def test_a_linear_filter_changes_neither_the_ring_correlation_nor_the_resolution(comparison):
    curves = comparison.curves.pivot(index="frequency", columns="method", values="correlation")
    middle = curves.loc[0.03:0.2]
    np.testing.assert_allclose(middle["fitting"], middle["recorded"], atol=0.05)
    found = values(comparison.scores, "resolution px")
    assert found["fitting"] == pytest.approx(found["recorded"], rel=0.03)


def test_three_frames_have_scores_but_no_error_of_the_error(data):
    scores = repeat_frames(data.frames[:3], {"fitting": METHODS["fitting"]}, **QUIET)
    assert values(scores, "mse")["fitting"] > 0
    assert np.isnan(errors(scores, "mse")["fitting"])
    assert errors(scores, "correlation")["fitting"] > 0


# --- input -------------------------------------------------------------------------------------------------------


def test_stacks_lists_and_arrays_give_the_same_scores(data):
    frames = data.frames[:3]
    methods = {"fitting": METHODS["fitting"]}
    expected = repeat_frames(frames, methods, **QUIET)
    for given in (
        xr.DataArray(frames, dims=("image", "y", "x")),
        xr.DataArray(frames, dims=("frame", "y", "x")),
        list(frames),
        [xr.DataArray(frame, dims=("y", "x")) for frame in frames],
    ):
        found = repeat_frames(given, methods, **QUIET)
        pd.testing.assert_frame_equal(found[found["score"] != "seconds"], expected[expected["score"] != "seconds"])


def test_the_resolution_of_calibrated_frames_is_in_nm(data, comparison):
    frames = stemkit.calibrated(xr.DataArray(data.frames, dims=("image", "y", "x")), pixel_size=0.02)
    scores = compare_frames(frames, {}, **QUIET).scores
    in_px = values(comparison.scores, "resolution px")["recorded"]
    assert values(scores, "resolution nm")["recorded"] == pytest.approx(0.02 * in_px)


def test_a_sequence_of_estimators_is_named_by_class(data):
    scores = repeat_frames(data.frames[:3], [GaussianFilter(1.0), GaussianFilter(2.0), METHODS["unchanged"]], **QUIET)
    named = ["recorded", "GaussianFilter 1", "GaussianFilter 2", "Filter", "ceiling"]
    assert scores["method"].unique().tolist() == named


def test_rows_of_the_tables_are_compared_with_the_best_gaussian_filter(data):
    rows = [row for row in compared_methods() if row.name in ("recorded", "Wiener")]
    frames = xr.DataArray(data.frames[:3], dims=("image", "y", "x"))
    scores = repeat_frames(frames, rows, verbose=False, mode="haadf")
    assert scores["method"].unique().tolist() == ["recorded", "Gaussian, best sigma", "Wiener", "ceiling"]
    widths = {f"{sigma}": GaussianFilter(sigma) for sigma in WIDTHS}
    all_widths = values(repeat_frames(frames, widths, **QUIET), "correlation")[list(widths)]
    assert values(scores, "correlation")["Gaussian, best sigma"] == pytest.approx(all_widths.max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[:2], r"frames must be at least 3 images of the same area, but is 2 images"),
        (lambda f: f[0], r"frames must be at least 3 images of the same area, but is one image of 160 by 168 px"),
        (lambda f: [*f[:3], f[3][:-1]], r"equal sizes, but frames\[3\] has 159 by 168 px and most have 160 by 168 px"),
        (lambda f: [*f[:3], np.full(f[0].shape, 7.0)], r"frames\[3\] is constant, 7 everywhere: leave it out"),
        (lambda f: [*f[:3], np.where(np.eye(160, 168) > 0, np.nan, f[3])], r"frames\[3\] must be finite"),
        (lambda f: [*f[:3], f[1]], r"independent noise, but frames\[1\] and frames\[3\] are identical"),
        (lambda f: np.random.default_rng(0).normal(size=f.shape), r"no two of them correlate at shifts up to 40 px"),
    ],
)
def test_frames_that_cannot_be_compared_are_refused(data, change, message):
    with pytest.raises(ValueError, match=message):
        repeat_frames(change(data.frames), {}, **QUIET)


def test_frames_of_different_pixel_sizes_are_refused(data):
    frames = [
        stemkit.calibrated(frame, pixel_size=size)
        for frame, size in zip(data.frames[:3], (0.02, 0.02, 0.03), strict=True)
    ]
    with pytest.raises(ValueError, match=r"equal pixel sizes, but frames\[0\] has \(0.02.* nm and frames\[2\] has"):
        repeat_frames(frames, {}, **QUIET)


def test_an_unknown_threshold_is_refused_before_anything_is_denoised(data):
    with pytest.raises(ValueError, match="threshold must be one of 'half-bit', '1/7', but is 'none'"):
        repeat_frames(data.frames, {"fails": None}, threshold="none", **QUIET)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda v: np.where(v == v.max(), np.nan, v), r"spoilt must return finite values, but 1 pixels are not"),
        (lambda v: np.full_like(v, np.inf), r"spoilt must return finite values, but 26880 pixels are not"),
    ],
)
def test_results_that_are_not_finite_are_refused(data, function, message):
    with pytest.raises(ValueError, match=message):
        repeat_frames(data.frames[:3], {"spoilt": Filter(function)}, **QUIET)


def test_results_of_another_shape_are_refused(data):
    class Cropping(Filter):
        def transform(self, X):
            return X[1:, 1:]

    with pytest.raises(ValueError, match=r"crops must return an image of shape \(160, 168\), but returns shape"):
        repeat_frames(data.frames[:3], {"crops": Cropping(None)}, **QUIET)


@pytest.mark.parametrize("name", ["ceiling", "mean of the others"])
def test_names_of_references_are_no_names_of_methods(data, name):
    with pytest.raises(ValueError, match=f"denoisers must not be named {name}"):
        repeat_frames(data.frames[:3], {name: GaussianFilter(1.0)}, **QUIET)


# --- report and command ------------------------------------------------------------------------------------------


def test_the_report_has_tables_and_a_figure(comparison, tmp_path):
    text = write_frames(comparison, tmp_path)
    table = printed_table(comparison.scores)
    assert list(table.index) == ["recorded", *METHODS, "ceiling"]
    assert table.loc["ceiling", "mse"] == ""
    value, error = table.loc["fitting", "correlation"].split(" ± ")
    assert float(value) == pytest.approx(values(comparison.scores, "correlation")["fitting"], abs=float(error))
    for name in ("recorded", "ceiling", "6 frames", "half-bit", value):
        assert name in text
    written = pd.read_csv(tmp_path / "frames.csv")
    assert written["score"].tolist() == comparison.scores["score"].tolist()
    picture = plt.imread(tmp_path / "frames.png")[..., :3]
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 0.1  # of values from 0 to 1: not blank
    assert set(pd.read_csv(tmp_path / "frames_curves.csv")["method"]) == {"recorded", *METHODS, "ceiling", "half-bit"}
    assert len(pd.read_csv(tmp_path / "frames_shifts.csv")) == 6


def test_the_figure_shows_every_method_and_both_references(comparison):
    figure = frames_figure(comparison)
    titles = [axis.get_title() for axis in figure.axes[1:]]
    assert titles == ["recorded", *METHODS, "mean of the others"]
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["recorded", *METHODS, "ceiling", "threshold (half-bit)"]


@pytest.mark.parametrize("single", [True, False])
def test_the_command_reads_a_stack_or_several_files(data, tmp_path, capsys, monkeypatch, single):
    rows = [row for row in compared_methods() if row.name in ("recorded", "ABSF")]
    monkeypatch.setattr("stemkit.benchmark.methods.compared_methods", lambda *a, **k: rows)
    frames = data.frames[:3].astype(np.float32)
    paths = [tmp_path / "stack.npy"] if single else [tmp_path / f"{i}.npy" for i in range(3)]
    for path, values_ in zip(paths, [frames] if single else frames, strict=True):
        np.save(path, values_)
    names = [str(path) for path in paths]
    arguments = ["--pixel-size", "0.02", "--mode", "haadf", "--threshold", "1/7", "--max-shift", "10"]
    assert main(["benchmark", "--frames", *names, *arguments, "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    for word in ("| ", "ABSF", "Gaussian, best sigma", "ceiling", "resolution nm", "1/7", "frames.png"):
        assert word in printed
    assert (tmp_path / "out" / "frames_table.csv").exists()


def test_the_command_says_what_is_wrong_with_the_frames(data, tmp_path, capsys):
    np.save(tmp_path / "two.npy", data.frames[:2])
    assert main(["benchmark", "--frames", str(tmp_path / "two.npy"), "-o", str(tmp_path)]) == 1
    assert "frames must be at least 3 images of the same area, but is 2 images" in capsys.readouterr().err
