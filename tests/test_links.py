"""Links of the repository's pages lead to files that exist, and to headings that they have."""

import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "bench").glob("*.md")]
    + [path for folder in ("docs", "tutorials") for path in (ROOT / folder).rglob("*.md")]
    + list((ROOT / "tutorials").glob("*.py"))
)
HOMES = dict.fromkeys((ROOT / "bench").glob("*.md"), ROOT / "docs")
"""Folders from which links are read, where that is not the page's own: `python -m bench report` makes a page of docs of it."""
FENCED = re.compile(r"^(```+).*?^\1$", re.DOTALL | re.MULTILINE)
ADDRESSES = re.compile(r"""\]\(([^)\s]+)\)|^\[[^\]]+\]:\s*(\S+)|(?:src|srcset|href)="([^"\s]+)""", re.MULTILINE)
"""Of links and pictures, also by name and in HTML."""


def text_of(path):
    """Return the prose of a page: no blocks of code, and of a script the cells of Markdown."""
    text = path.read_text()
    if path.suffix == ".py":
        cells = re.findall(r"^# %% \[markdown\]\n((?:#.*\n)+)", text, re.MULTILINE)
        text = re.sub(r"^# ?", "", "\n".join(cells), flags=re.MULTILINE)
    return FENCED.sub("", text)


def anchors(path):
    """Return the fragments of a page's headings, as GitHub and MyST name them."""
    seen, found = Counter(), set()
    for heading in re.findall(r"^#{1,6} (.+?)#*$", text_of(path), re.MULTILINE):
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def links(path):
    """Yield the addresses of a page that lead into the repository, as files and fragments."""
    for groups in ADDRESSES.findall(text_of(path)):
        address = unquote("".join(groups))
        if not re.match(r"\w+:", address):
            name, _, fragment = address.partition("#")
            yield address, (HOMES.get(path, path.parent) / name if name else path), fragment


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(path):
    for address, target, fragment in links(path):
        if "../explorer/" in address:  # which the site adds
            continue
        assert target.exists(), address
        assert not fragment or (target.suffix == ".md" and fragment in anchors(target)), address


def test_wrong_links_are_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `call(x)`, twice: [here](y.md)\n\n## Twice\n\n## Twice\n\n[1](other.md#x) ![2](a.svg) [3]\n"
        '<img src="b.png">\n\n[3]: c.md\n\n```\n# No heading [4](d.md)\n```\n[5](https://example.org/#z)\n'
    )
    assert anchors(page) == {"a-callx-twice-here", "twice", "twice-1"}
    assert [(target.name, fragment) for _, target, fragment in links(page)] == [
        ("y.md", ""),
        ("other.md", "x"),
        ("a.svg", ""),
        ("b.png", ""),
        ("c.md", ""),
    ]
