"""link_columns: known moves, appearances and disappearances."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemkit.series import link_columns
from stemkit.series.linking import _matched

ERROR = 0.05


def grid(n=6, spacing=10.0):
    return np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1).reshape(-1, 2) * spacing + 5.0


def table(positions, error=ERROR, amplitude=1.0):
    """A table in px of columns at these positions."""
    y, x = np.asarray(positions, dtype=float).reshape(-1, 2).T
    result = pd.DataFrame({"y": y, "x": x, "y_px": y, "x_px": x, "sigma": 2.0})
    for name in ("y_err", "x_err", "y_px_err", "x_px_err"):
        result[name] = error
    return result.assign(amplitude=amplitude, amplitude_err=0.1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.floats(0.0, 4.9))
def test_columns_that_move_by_less_than_the_limit_keep_their_number(seed, n_frames, reach):
    random = np.random.default_rng(seed)
    places, truth, tables = grid(), [], []
    for _ in range(n_frames):
        angle, length = random.uniform(0, 2 * np.pi, len(places)), random.uniform(0, reach, len(places))
        # half the limit to each side of the site: between frames columns move by less than the limit
        moved = places + 0.5 * (length * np.array([np.sin(angle), np.cos(angle)])).T
        order = random.permutation(len(places))
        truth.append(order)
        tables.append(table(moved[order]))
    linked = link_columns(tables, max_distance=5.0)
    number = linked["column"].to_numpy().reshape(n_frames, -1)
    of_site = [number[k][np.argsort(truth[k])] for k in range(n_frames)]
    assert all((one == of_site[0]).all() for one in of_site)
    assert set(number[0]) == set(range(len(places)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_links_are_those_with_the_least_sum_of_squares(seed):
    random = np.random.default_rng(seed)
    before, after = (random.uniform(0, 6, (random.integers(1, 5), 2)) for _ in range(2))
    limit = 2.5
    distance = np.hypot(*(before[:, None] - after).transpose(2, 0, 1))

    def best(i, left):
        """Least cost of linking the positions from i on to those that are left."""
        if i == len(before):
            return limit**2 / 2 * len(left)
        costs = [limit**2 / 2 + best(i + 1, left)]
        costs += [distance[i, j] ** 2 + best(i + 1, left - {j}) for j in left if distance[i, j] < limit]
        return min(costs)

    first, second = _matched(before, after, limit)
    assert len(set(first)) == len(first)
    assert len(set(second)) == len(second)
    alone = len(before) + len(after) - 2 * len(first)
    cost = (distance[first, second] ** 2).sum() + limit**2 / 2 * alone
    assert cost == pytest.approx(best(0, frozenset(range(len(after)))))


def test_displacements_errors_and_significance_of_one_hop():
    places = grid()
    moved = places.copy()
    moved[14] += (1.5, -2.0)
    random = np.random.default_rng(0)
    tables = [table(at + random.normal(0, ERROR, at.shape)) for at in (places, places, moved, moved)]
    linked = link_columns(tables, max_distance=4.0)
    assert linked.attrs["scatter"] == pytest.approx((0.0, 0.0), abs=0.05)
    hop = linked[(linked["frame"] == 2) & (linked["column"] == 14)].iloc[0]
    assert (hop["dy"], hop["dx"]) == pytest.approx((1.5, -2.0), abs=5 * 2**0.5 * ERROR)
    assert hop["significance"] > 15
    others = linked.drop(hop.name)["significance"].dropna()
    assert len(others) == 3 * 36 - 1
    # the square of the significance has the mean 2 and, of n numbers, the standard deviation 2 / n^1/2
    assert (others**2).mean() == pytest.approx(2.0, abs=5 * 2 / len(others) ** 0.5)
    assert linked[linked["frame"] == 0]["dy"].isna().all()


@pytest.mark.parametrize("memory", [None, 0, 2])
def test_columns_that_are_absent_are_linked_again_within_the_memory(memory):
    places = grid()
    tables = [table(places), table(places[1:]), table(places[1:]), table(places)]
    linked = link_columns(tables, max_distance=4.0, memory=memory)
    first = linked[(linked["frame"] == 3) & (linked["y"] == 5) & (linked["x"] == 5)]["column"].item()
    assert first == (36 if memory == 0 else 0)


def test_the_scatter_that_most_columns_have_is_part_of_the_errors():
    random = np.random.default_rng(1)
    rows = random.normal(0, 0.3, (5, 6)).repeat(6, axis=1)
    tables = [table(grid() + np.stack([0 * r, r], -1) + random.normal(0, ERROR, (36, 2))) for r in rows]
    linked = link_columns(tables, max_distance=4.0)
    # of 30 rows
    assert linked.attrs["scatter"][1] == pytest.approx(0.3, rel=5 / 60**0.5)
    assert linked.attrs["scatter"][0] < ERROR
    assert (linked["significance"].dropna() > 5).sum() == 0


def test_displacements_move_columns_to_the_average():
    displacement = np.zeros((3, 64, 2))
    displacement[1] = (7.0, -3.0)
    displacement[2] = np.nan
    tables = [table(grid()), table(grid() - (7.0, -3.0)), table(grid())]
    linked = link_columns(tables, max_distance=1.0, displacements=displacement)
    assert set(linked["frame"]) == {0, 1}
    assert linked["column"].max() == 35
    assert linked["dy"].abs().max() == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(linked["x_px"][:36], linked["x_px"][36:])


def test_changes_of_height_have_errors():
    tables = [table(grid(), amplitude=1.0), table(grid(), amplitude=1.6)]
    linked = link_columns(pd.concat([t.assign(image=i) for i, t in enumerate(tables)]), max_distance=1.0)
    after = linked[linked["frame"] == 1]
    assert after["amplitude_change"].to_numpy() == pytest.approx(0.6)
    assert after["amplitude_change_err"].to_numpy() == pytest.approx(0.1 * 2**0.5)


def test_frames_without_columns_are_no_error():
    linked = link_columns([table(grid()), table(np.empty((0, 2))), table(grid())], max_distance=1.0)
    assert linked["column"].max() == 35
    assert len(link_columns([table(np.empty((0, 2)))], max_distance=1.0)) == 0


@pytest.mark.parametrize(
    ("tables", "options", "message"),
    [
        ([table(grid())], {"max_distance": 0.0}, "max_distance must be"),
        ([table(grid())], {"max_distance": 1.0, "memory": -1}, "memory must be"),
        ([table(grid()).drop(columns="y_err")], {"max_distance": 1.0}, "that of frame 0 lacks y_err"),
        (table(grid()), {"max_distance": 1.0}, "with the column frame or image"),
        ([table(grid())] * 2, {"max_distance": 1.0, "displacements": np.zeros((1, 9, 2))}, "displacements must have"),
        ([], {"max_distance": 1.0}, "at least one frame"),
    ],
)
def test_unusable_input_is_refused(tables, options, message):
    with pytest.raises(ValueError, match=message):
        link_columns(tables, **options)
