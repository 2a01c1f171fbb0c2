"""Releases: the wheel and the sdist, one version everywhere, public names that changed, the lines that a newcomer follows."""

import ast
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

import convolith as cl
from tools import api_changes, newcomer, release

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_wheel_and_the_sdist_are_complete(tmp_path):
    sdist, wheel = release.build(ROOT, tmp_path)
    assert release.problems_of_wheel(wheel) == []
    assert release.problems_of_sdist(sdist) == []


def test_a_wheel_with_other_files_is_refused(tmp_path):
    path = tmp_path / "convolith-9.9-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("convolith-9.9.dist-info/METADATA", "Name: convolith\n")
        wheel.writestr("tests/__init__.py", "")
    found = release.problems_of_wheel(path)
    assert "the wheel has no convolith/__init__.py" in found
    assert "the wheel has tests/__init__.py" in found
    assert "the wheel is called convolith-9.9-py3-none-any.whl" in found
    assert "the wheel has no licences of the packages in its page" in found
    assert "the wheel's metadata have no line License-Expression: BSD-3-Clause" in found


def test_the_tests_of_the_sdist_are_files():
    assert [name for name in release.TESTS if not (ROOT / name).is_file()] == []


def test_one_version_everywhere():
    newest = re.findall(r"^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", CHANGELOG, re.MULTILINE)[0]
    citation = (ROOT / "CITATION.cff").read_text()
    assert newest[0] == cl.__version__
    assert f"\nversion: {cl.__version__}\ndate-released: {newest[1]}\n" in citation


KINDS = (
    "For networks",
    "For images and signals",
    "For learners and the page",
    "For everyone: command line, install",
    "Fixed",
    "Changed: who should care",
)
"""Headings of the parts of a section, in their order."""


def test_the_changelog_has_room_for_what_comes_and_sections_by_kind():
    first, newest, *_ = re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]
    assert first.startswith("[Unreleased]\n")
    assert newest.startswith(f"[{cl.__version__}] - ")
    for section in (first, newest):
        kinds = re.findall(r"^### (.*)$", section, re.MULTILINE)
        assert kinds == sorted(kinds, key=KINDS.index)
        assert len(kinds) == len(set(kinds))
    assert re.search(r"^### ", newest, re.MULTILINE)


def test_the_support_table_states_the_oldest_versions():
    project = (ROOT / "pyproject.toml").read_text()
    support = (ROOT / "docs" / "support.md").read_text()
    for package, name in (("torch", "torch"), ("numpy", "NumPy"), ("llvmlite", "llvmlite")):
        least = re.search(rf'"{package}>=([\d.]+)"', project)[1]
        assert f"| {name} | {least} |" in support
        tested = re.search(rf"\| {name} \| [\d.]+ \| (?:[\d.]+ and )?([\d.]+)", support)[1]
        assert re.search(rf"^{package}=={re.escape(tested)}", CONSTRAINTS, re.MULTILINE)
    assert f'requires-python = ">={re.search(r"Python . ([0-9.]+) .", support)[1]}"' in project


def test_extras_that_developers_share_are_pinned():
    for extra in ("test", "docs", "release"):
        names = {re.match(r"[\w-]+", line)[0] for line in PROJECT["optional-dependencies"][extra]} - {"convolith"}
        pinned = set(re.findall(r"^([\w-]+)==", CONSTRAINTS, re.MULTILINE))
        assert names <= pinned, extra


def test_the_newcomers_lines_are_those_of_the_readme():
    assert "pip install" in newcomer.first_block(README, "sh")
    assert ast.parse(newcomer.first_block(README, "python"))
    promise = newcomer.stated(README)
    assert 100 < promise.megabytes < 10_000
    assert 10 < promise.seconds < 1000  # as the README says: nothing is timed here


PAGE = """# A

2 seconds for 31x31, 3 GB.

## Set up

About 650 MB, {time}:

```sh
pip install .
run
```

```python
a = 1
```
"""


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("40 to 90 seconds", 90),
        ("under 90 s", 90),
        ("one to three minutes", 180),
        ("Two minutes", 120),
        ("1-2.5 min", 150),
    ],
)
def test_the_newcomer_reads_sizes_and_times(time, seconds):
    page = PAGE.format(time=time)
    promise = newcomer.stated(page)
    assert promise[:2] == (650.0, seconds)
    assert promise.time in time
    assert (newcomer.first_block(page, "sh"), newcomer.first_block(page, "python")) == (
        "pip install .\nrun\n",
        "a = 1\n",
    )
    assert newcomer.stated(page.replace("650 MB", "1.4 GB")).megabytes == 1400.0


def test_the_newcomer_reads_what_is_stated_after_the_commands():
    page = "# A\n\n```sh\nrun\n```\n\n1.4 GB, 90 s.\n\nTests, 2.7 GB and 35 minutes:\n\n```sh\npytest\n```\n"
    assert newcomer.stated(page) == (1400.0, 90.0, "90 s")
    with pytest.raises(SystemExit, match="states no size"):
        newcomer.stated("nothing\n```sh\n```")
    with pytest.raises(SystemExit, match="states no time"):
        newcomer.stated("650 MB\n```sh\n```")


def test_the_newcomer_compares_sizes_and_times():
    promise = newcomer.Stated(1000.0, 60.0, "one minute")
    assert newcomer.differences(promise, 1090.0, 119.0) == []
    larger, slower = newcomer.differences(promise, 1110.0, 121.0)
    assert "states 1000 MB, but 1110 MB were installed" in larger
    assert "states one minute, but its first commands took 121 s" in slower


BEFORE = """
__all__ = ["Sums", "gone", "resized", "scaled"]


class Sums:
    def update(self, x, y): ...
    def merge(self, other): ...


def gone(): ...
def resized(x, size=3): ...
def scaled(x, everything=False): ...
"""
AFTER = """
__all__ = ["Sums", "new", "resized", "scaled"]


class Sums:
    def update(self, x, y): ...


def new(): ...
def resized(x, size=5): ...
def scaled(x, force=False, *, flip=False): ...
"""
CHANGED = {
    "cl.gone: is missing": {"gone"},
    "cl.Sums: Sums.merge: Public object was removed": {"Sums", "merge"},
    "cl.resized: resized(size): Parameter default was changed: 3 -> 5": {"resized", "size"},
    "cl.scaled: scaled(everything): Parameter was removed": {"scaled", "everything"},
}
"""Sentence on each change between the two, and the words that the changelog has to name."""
SECTION = "## [0.1.0] - 2026-01-01\n\n- `first`\n"


@pytest.fixture
def history(tmp_path):
    """Return a function that writes a version of a package, with a changelog, and commits it."""
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]

    def commit(code, changelog):
        (tmp_path / "src" / "convolith").mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / "convolith" / "__init__.py").write_text(code)
        (tmp_path / "CHANGELOG.md").write_text(changelog)
        for arguments in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "A version"]):
            subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)  # noqa: S603, S607 - our own
        return tmp_path

    return commit


def test_public_names_that_changed_are_found_and_have_to_be_in_the_changelog(history, capsys):
    root = history(BEFORE, SECTION)
    assert api_changes.earlier_releases(root) == {}, "the commit of a release is compared with those before it"
    history(AFTER, "## [Unreleased]\n\n" + SECTION)
    (commit,) = api_changes.earlier_releases(root).values()
    found = {one.text: one.words for one in api_changes.changes(commit, root)}
    assert found == CHANGED
    assert api_changes.compare("0.1.0", commit, root) == len(CHANGED)
    assert "compared with those of 0.1.0" in (shown := capsys.readouterr().out)
    assert all(f"{text}  <- not in the changelog" in shown for text in CHANGED)
    named = (
        "- `gone` and `Sums.merge` are gone.\n- `scaled(everything=)` is `force`.\n- `resized` is larger, `size`\n\n"
    )
    history(AFTER, "## [Unreleased]\n\n" + named + SECTION)
    assert api_changes.compare("0.1.0", commit, root) == 0
    assert "  4 are missing or have changed; the changelog does not name 0 of them" in capsys.readouterr().out
    history(AFTER, "## [Unreleased]\n\n" + SECTION + "\n" + named)
    assert api_changes.compare("0.1.0", commit, root) == 4, "named in an older section"


def test_a_tag_is_the_commit_of_its_release(history):
    history(BEFORE, SECTION)
    root = history(BEFORE, "## [0.2.0] - 2026-02-02\n\n" + SECTION)
    subprocess.run(["git", "tag", "v0.1.0"], cwd=root, check=True)  # noqa: S607 - whichever git is there
    history(AFTER, "## [Unreleased]\n\n## [0.2.0] - 2026-02-02\n\n" + SECTION)
    found = api_changes.earlier_releases(root)
    assert list(found) == ["0.2.0", "0.1.0"]
    assert found["0.1.0"] == found["0.2.0"], "the tag, not the commit of the heading"


def test_a_package_without_public_names_is_no_comparison(history):
    root = history("x = 1\n", SECTION)
    history(AFTER, SECTION + "\n")
    with pytest.raises(SystemExit, match="no public names were found"):
        api_changes.changes("HEAD^", root)


def test_the_changelog_names_an_earlier_release_that_the_history_has():
    whole = api_changes.git(ROOT, "rev-parse", "--is-shallow-repository") == "false"
    if not whole or api_changes.git(ROOT, "rev-list", "--count", "HEAD", "--", "CHANGELOG.md") in ("", "0", "1"):
        pytest.skip("no clone with its whole history")
    assert api_changes.earlier_releases()
