"""The templates of the pages."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["environment"]


@cache
def environment() -> Environment:
    """Environment of the templates; inserted text is escaped."""
    return Environment(
        loader=PackageLoader("stemkit.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
