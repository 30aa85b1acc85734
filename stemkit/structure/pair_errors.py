"""Errors of distances and angles between columns, with the jitter that columns in the same scan lines share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stemkit.structure.covariance import PositionCovariance

__all__ = ["angle_variance", "axis_angle", "direction_variance", "distance_variance", "gradient_variance"]

#: Least square of a distance, in the unit of the table squared (chosen: directions of coinciding columns stay finite).
MIN_SQUARE = 1e-300


def gradient_variance(covariance: PositionCovariance, rows: NDArray, gradient: NDArray) -> NDArray[np.float64]:
    """Variances ``(m,)`` of functions of the positions of a few columns each.

    Parameters
    ----------
    covariance : PositionCovariance
    rows : ndarray of shape (m, q)
        Rows of the table.
    gradient : ndarray of shape (m, q, 2)
        Derivatives with respect to y and x of each position. Errors along y and x are independent.
    """
    along_y, along_x = (covariance.of_few(rows, gradient[..., axis])[:, axis] for axis in range(2))
    return along_y + along_x


def distance_variance(
    covariance: PositionCovariance, difference: NDArray, i: NDArray, j: NDArray
) -> NDArray[np.float64]:
    """Variances ``(m,)`` of the distances of columns i and j at ``difference`` ``(m, 2)``, from i to j."""
    direction = difference / np.sqrt(np.maximum((difference**2).sum(axis=1), MIN_SQUARE))[:, None]
    return gradient_variance(covariance, np.column_stack([i, j]), np.stack([-direction, direction], axis=1))


def direction_variance(
    covariance: PositionCovariance, difference: NDArray, i: NDArray, j: NDArray
) -> NDArray[np.float64]:
    """Variances ``(m,)`` of the angles of the lines from i to j, rad squared."""
    slope = _angle_gradient(difference)
    return gradient_variance(covariance, np.column_stack([i, j]), np.stack([-slope, slope], axis=1))


def angle_variance(
    covariance: PositionCovariance, first: NDArray, second: NDArray, rows: NDArray
) -> NDArray[np.float64]:
    """Variances ``(m,)`` of the angles between lines from a shared column, rad squared.

    Parameters
    ----------
    covariance : PositionCovariance
    first, second : ndarray of shape (m, 2)
        Vectors from the shared column to the two others.
    rows : ndarray of shape (m, 3)
        Rows of the shared column, and of the two others.
    """
    to_first, to_second = -_angle_gradient(first), _angle_gradient(second)
    return gradient_variance(covariance, rows, np.stack([-to_first - to_second, to_first, to_second], axis=1))


def axis_angle(difference: NDArray) -> NDArray[np.float64]:
    """Directions ``(m,)`` of lines, degrees from +x towards +y, from 0 to below 180."""
    angle = np.degrees(np.arctan2(difference[:, 0], difference[:, 1])) % 180
    return np.where(angle < 180, angle, 0.0)  # a tiny negative angle is rounded to 180


def _angle_gradient(vector: NDArray) -> NDArray[np.float64]:
    """Derivative ``(m, 2)`` of the angle ``atan2(y, x)`` of vectors with respect to y and x."""
    return vector[:, ::-1] * [1, -1] / np.maximum((vector**2).sum(axis=1), MIN_SQUARE)[:, None]
