"""Reports: one self-contained HTML page per image, and an index of a folder of pages. Requires Bokeh and Jinja2."""

from stemkit.report.index import write_index
from stemkit.report.page import Section, write_report

__all__ = ["Section", "write_index", "write_report"]
