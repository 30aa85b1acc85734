"""Adjusted p-values, and the p-value of one more discovery."""

import numpy as np
import pytest
from scipy import stats

from stemkit.structure.multiple_tests import benjamini_hochberg, critical_p_value


def test_q_values_are_those_of_scipy_with_the_other_tests_not_rejected():
    p = np.array([0.001, 0.5, 0.01, 0.04])
    expected = stats.false_discovery_control([*p, *[1.0] * 16])[:4]
    np.testing.assert_allclose(benjamini_hochberg(p, 20), expected)
    # the number of independent positions is an estimate
    np.testing.assert_allclose(benjamini_hochberg(p, 19.2), expected)


def test_tests_without_a_p_value_count():
    found = benjamini_hochberg(np.array([np.nan, 0.01, np.nan]), 3)
    assert found[1] == pytest.approx(0.03)
    assert np.isnan(found[[0, 2]]).all()
    assert np.isnan(benjamini_hochberg(np.full(2, np.nan), 2)).all()


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_one_more_discovery_has_at_most_the_critical_p_value(rate):
    p = np.array([1e-4, 2e-3, 0.5])
    critical = critical_p_value(benjamini_hochberg(p, 30), 30, rate)
    for factor, n_discoveries in ((0.99, 3), (1.01, 2)):
        with_another = benjamini_hochberg(np.append(p, factor * critical), 30)
        assert (with_another <= rate).sum() == n_discoveries
