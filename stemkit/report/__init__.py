"""Reports: one self-contained HTML page per image, and an index of a folder of pages. Requires Bokeh and Jinja2.

- ``page`` (:func:`write_report`) and ``index`` write files from ``templates`` (``templating``).
- Parts of a page: ``viewer`` (the image with its columns), ``table``, ``charts`` (spectra, histograms),
  ``noise_words``, ``encoding`` (pictures in a page).
"""

from stemkit.report.index import write_index
from stemkit.report.page import Section, write_report

__all__ = ["Section", "write_index", "write_report"]
