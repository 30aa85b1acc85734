"""Other name of :mod:`stemkit.atomic`."""

from stemkit.atomic import check_place, whole_file

__all__ = ["check_place", "whole_file"]
