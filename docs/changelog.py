"""A Sphinx extension: ``.. changelog::`` shows CHANGELOG.md, whose Markdown is headings, lists, links and code."""

import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

CHANGELOG = Path(__file__).parent.parent / "CHANGELOG.md"
UNDERLINES = {"##": "-", "###": "^", "####": '"'}
TARGET = re.compile(r"^\[([^\]]+)\]: (\S+)$", re.MULTILINE)
CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
NAME = re.compile(r"\[([^\]]+)\]")


class Changelog(SphinxDirective):
    """The changelog in place of the directive."""

    def run(self) -> list[nodes.Node]:
        if not CHANGELOG.exists():
            return [nodes.paragraph(text="Nothing has been released yet.")]
        self.env.note_dependency(str(CHANGELOG))
        lines = restructured(CHANGELOG.read_text(encoding="utf-8")).splitlines()
        return self.parse_text_to_nodes(StringList(lines, source=str(CHANGELOG)), allow_section_headings=True)


def restructured(markdown: str) -> str:
    """Markdown as reStructuredText, without its title."""
    targets = dict(TARGET.findall(markdown))
    lines = TARGET.sub("", markdown).splitlines()
    return "\n".join(part for line in lines if not line.startswith("# ") for part in _converted(line, targets))


def _converted(line: str, targets: dict[str, str]) -> list[str]:
    mark, _, title = line.partition(" ")
    if mark in UNDERLINES:
        title = NAME.sub(r"\1", title)
        return ["", title, UNDERLINES[mark] * len(title), ""]

    def named(match: re.Match[str]) -> str:
        return f"`{match[1]} <{targets[match[1]]}>`__" if match[1] in targets else match[0]

    line = CODE.sub(r"``\1``", line)
    line = NAME.sub(named, LINK.sub(r"`\1 <\2>`__", line))
    return ["", line] if line.lstrip().startswith(("- ", "* ")) else [line]


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the directive."""
    app.add_directive("changelog", Changelog)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
