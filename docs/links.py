"""Links of the repository: ``python docs/links.py`` checks them, and lists the external ones with their files.

Internal links are checked strictly: files, anchors, pages and labels must exist. Of external addresses the form is
checked; with ``--online``, each is requested, and those that do not exist are errors. A server that can't be reached,
or that refuses programs, as some publishers do, is only named.
"""

from __future__ import annotations

import os
import re
import sys
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent
#: Files with links: how their names end, and where they are.
SUFFIXES = {".cff", ".md", ".py", ".rst", ".yaml"}
FOLDERS = ("", "docs/**/", "examples/", "recipe/", "stemkit/**/")
#: Built pages, and this file, which has patterns of links.
LEFT_OUT = {"_build", "gallery", "generated", "sg_execution_times.rst", "links.py"}
#: An address in text; what closes the sentence or the markup around it does not belong to it.
ADDRESS = re.compile(r"https?://[^\s<>`\"'{}\[\]]+")
DOI = re.compile(r"(?:https?://(?:dx\.)?doi\.org/|\bdoi:\s?)(?P<name>[^\s<>`\"'{}\[\]]+)", re.IGNORECASE)
#: The registered form of a DOI: prefix of the publisher, and a name.
DOI_NAME = re.compile(r"10\.\d{4,9}/[\w.();:/+-]+", re.ASCII)
#: Files of the repository that are named in text; not those in a longer path.
NAMED = re.compile(r"(?<![\w/.-])(?:docs|examples|recipe|stemkit|tests|benchmarks)/[\w./-]+\.(?:py|rst|md|csv|yaml)\b")
MARKDOWN = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
ROLE = re.compile(r":(doc|ref):`(?:[^`<]*<([^>]+)>|([^`]+))`")
LABEL = re.compile(r"^(?:# )?\.\. _([^:]+):\s*$", re.MULTILINE)
DIRECTIVE = re.compile(r"^\s*\.\. (?:image|figure|literalinclude|include):: (\S+\.\w+)$", re.MULTILINE)
#: Seconds before a server counts as not reachable (chosen).
TIMEOUT = 10.0


def texts() -> dict[Path, str]:
    """All files with links, by path relative to the repository."""
    paths = sorted({p for folder in FOLDERS for p in ROOT.glob(f"{folder}*") if p.suffix in SUFFIXES})
    return {p.relative_to(ROOT): p.read_text(encoding="utf-8") for p in paths if not LEFT_OUT & set(p.parts)}


def addresses(files: dict[Path, str]) -> dict[str, list[Path]]:
    """External addresses, DOIs written as such included, with the files in which they are."""
    found = defaultdict[str, list[Path]](list)
    for path, text in files.items():
        every = [trimmed(one) for one in ADDRESS.findall(text)]
        every += [f"https://doi.org/{trimmed(one['name'])}" for one in DOI.finditer(text) if one[0][0] in "dD"]
        for address in dict.fromkeys(every):
            found[address].append(path)
    return dict(sorted(found.items()))


def trimmed(address: str) -> str:
    """An address without the punctuation after it."""
    while address[-1] in ".,;:*\\" or (address[-1] == ")" and address.count("(") < address.count(")")):
        address = address[:-1]
    return address


def malformed(found: dict[str, list[Path]]) -> Iterator[str]:
    """Addresses of the wrong form, and two spellings of one address."""
    spellings = defaultdict[str, set[str]](set)
    for address, paths in found.items():
        parts, where = urlsplit(address), ", ".join(map(str, paths))
        if parts.scheme != "https" or "." not in (parts.hostname or ""):
            yield f"{where}: {address} is not an https address of a server"
        name = parts.path.removeprefix("/")
        if parts.hostname in ("doi.org", "dx.doi.org") and not DOI_NAME.fullmatch(name):
            yield f"{where}: {address} is not a DOI, such as https://doi.org/10.1000/182"
        host = (parts.hostname or "").removeprefix("dx.").removeprefix("www.")
        spellings[f"{host}/{name.rstrip('/')}?{parts.query}#{parts.fragment}".lower()].add(address)
    for same in spellings.values():
        if len(same) > 1:
            yield f"one address in several spellings: {', '.join(sorted(same))}"


def internal(files: dict[Path, str]) -> Iterator[str]:
    """Links to files, anchors, pages and labels that do not exist."""
    labels = {label for text in files.values() for label in LABEL.findall(text)} | {"search", "genindex"}
    for path, text in files.items():
        folder = (ROOT / path).parent
        for name in NAMED.findall(text):
            if not (ROOT / name).exists():
                yield f"{path}: {name} does not exist"
        if path.suffix == ".md":
            yield from (f"{path}: {problem}" for problem in _markdown(folder, text, files))
        for kind, first, second in ROLE.findall(text):
            target = first or second
            if kind == "ref" and target not in labels:
                yield f"{path}: the label {target} is not defined"
            if kind == "doc" and not _page(path, target):
                yield f"{path}: the page {target} does not exist"
        if path.suffix == ".rst":
            for name in DIRECTIVE.findall(text):
                if not (folder / name).exists():
                    yield f"{path}: {name} does not exist"


def _markdown(folder: Path, text: str, files: dict[Path, str]) -> Iterator[str]:
    for link in (first or second for first, second in MARKDOWN.findall(text)):
        name, _, anchor = link.partition("#")
        if urlsplit(link).scheme:
            continue
        target = folder / name if name else None
        if target is not None and not target.exists():
            yield f"{link} does not exist"
        elif anchor and anchor not in _anchors(target.read_text(encoding="utf-8") if target else text):
            yield f"{link}: there is no such heading"


def _anchors(markdown: str) -> set[str]:
    """Anchors of the headings, as hosts of repositories make them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in HEADING.findall(markdown)}


def _page(path: Path, target: str) -> bool:
    """Whether a page of the documentation exists, or the script of the gallery that makes it."""
    folder = Path("docs/gallery") if path.parts[0] == "examples" else path.parent
    page = os.path.normpath(f"docs{target}" if target.startswith("/") else folder / target)
    script = page.replace("docs/gallery/", "examples/") + ".py"
    return page == "docs/gallery/index" or any((ROOT / name).exists() for name in (f"{page}.rst", script))


def reached(address: str) -> str:
    """What a server says about an address: an empty text if it exists, ``missing``, or why it is not known."""
    request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "Mozilla/5.0 (link check)"})
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError as error:
        return "missing" if error.code in (404, 410) else f"refused with {error.code}"
    except OSError as error:
        return f"not reached: {getattr(error, 'reason', error)}"
    return ""


def main() -> int:
    files = texts()
    found = addresses(files)
    problems = [*malformed(found), *internal(files)]
    for address, paths in found.items():
        said = reached(address) if "--online" in sys.argv[1:] else ""
        print(address, f"({', '.join(map(str, paths))})", said)
        problems += [f"{', '.join(map(str, paths))}: {address} does not exist"] * (said == "missing")
    print(f"\n{len(found)} external addresses in {len(files)} files, {len(problems)} problems")
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
