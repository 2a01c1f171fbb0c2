"""Compare the public names and parameters with those of earlier releases: changes must be in the changelog.

    python -m tools.api_changes [--against COMMIT]

Public is what `__all__` of the package and of its modules lists (`docs/names.md`): functions with their parameters, and
classes with the attributes and methods that have no underscore. Without COMMIT, the two newest releases before this
commit are compared with, since a deprecated name lives for two minor versions. The commit of a release is that of its
tag, or else the one that gave CHANGELOG.md its heading.

Exits 1 if a public name or parameter is missing or has changed and no item of the changelog's sections since then names
it in backticks.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import griffe

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "convolith"
CHANGELOG = "CHANGELOG.md"
HEADING = re.compile(r"^## \[(\d[\w.]*)\]", re.MULTILINE)
RELEASES = 2
"""Number of releases that are compared with."""


class Change(NamedTuple):
    """A public name or parameter that is missing or has changed."""

    text: str
    words: frozenset[str]
    """Identifiers that an item of the changelog has to name: of the object, and of its parameter."""


def git(root: Path, *arguments: str) -> str:
    """Return the output of a git command, or nothing if it fails."""
    if shutil.which("git") is None:
        return ""
    command = ["git", *arguments]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return ended.stdout.strip() if ended.returncode == 0 else ""


def release_commit(version: str, root: Path = ROOT) -> str:
    """Return the commit of a release, or nothing where it is not found."""
    tagged = git(root, "rev-parse", "--verify", "--quiet", f"v{version}^{{commit}}")
    commits = git(root, "log", "--reverse", "--format=%H", f"-S## [{version}]", "--", CHANGELOG).split()
    return tagged or (commits[0] if commits else "")


def earlier_releases(root: Path = ROOT) -> dict[str, str]:
    """Return the newest releases that the changelog lists, and their commits, without one that is this commit."""
    versions = HEADING.findall((root / CHANGELOG).read_text(encoding="utf-8"))
    commits = {version: release_commit(version, root) for version in versions}
    here = git(root, "rev-parse", "HEAD")
    return dict([item for item in commits.items() if item[1] not in ("", here)][:RELEASES])


def public_objects(module: griffe.Object | griffe.Alias, name: str) -> Iterator[tuple[str, griffe.Object]]:
    """Yield the public names of a module and of the public modules in it, with the objects that they stand for."""
    for entry in map(str, module.exports or []):
        member = module[entry]
        target = member.final_target if member.is_alias else member
        if target.is_module:
            yield from public_objects(target, f"{name}.{entry}")
        else:
            yield f"{name}.{entry}", target


def module_of(member: griffe.Object) -> griffe.Module:
    """Return a module with one member, since griffe compares the members of modules."""
    module = griffe.Module("cl")
    module.members["member"] = member
    return module


def changes(commit: str, root: Path = ROOT) -> list[Change]:
    """Return the public names and parameters that are missing or have changed since a commit."""
    old = griffe.load_git(PACKAGE, ref=commit, repo=root, search_paths=["src"], resolve_aliases=True)
    new = griffe.load(PACKAGE, search_paths=[root / "src"], resolve_aliases=True)
    before, now = (dict(public_objects(package, "cl")) for package in (old, new))
    if not before or not now:
        sys.exit(f"no public names were found {'now' if before else f'in {commit}'}; __all__ must be a plain list")
    found = {change_of(f"{name}: is missing", name.removeprefix("cl.")) for name in before if name not in now}
    for name in before.keys() & now.keys():
        for breakage in griffe.find_breaking_changes(module_of(before[name]), module_of(now[name])):
            member, what = re.findall(r"^- `(.+?)`: (.*)", breakage.explain(griffe.ExplanationStyle.MARKDOWN))[0]
            found.add(change_of(f"{name}: {member}: {re.sub('[*`]', '', what)}", member))
    return sorted(found)


def change_of(text: str, member: str) -> Change:
    """Return the change of a member, such as `Gram.update(x)`."""
    return Change(text, frozenset(word for word in re.findall(r"\w+", member) if not word.startswith("__")))


def sections_since(commit: str, root: Path = ROOT) -> str:
    """Return the changelog's text above the newest release that it listed at a commit."""
    text = (root / CHANGELOG).read_text(encoding="utf-8")
    versions = HEADING.findall(git(root, "show", f"{commit}:{CHANGELOG}"))
    return text.partition(f"\n## [{versions[0]}]")[0] if versions else text


def is_named(one: Change, sections: str) -> bool:
    """Return whether an item of the changelog names a change, all its words in backticks."""
    items = re.split(r"^\s*- |\n\n", sections, flags=re.MULTILINE)
    return any(one.words <= {*re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", item)))} for item in items)


def compare(label: str, commit: str, root: Path = ROOT) -> int:
    """Print what has changed since a commit; return how much of it the changelog does not name."""
    found, sections = changes(commit, root), sections_since(commit, root)
    unnamed = [one for one in found if not is_named(one, sections)]
    print(f"public names and parameters now, compared with those of {label} (commit {commit[:12]}):")
    for one in found:
        print(f"  {one.text}{'  <- not in the changelog' if one in unnamed else ''}")
    print(f"  {len(found)} are missing or have changed; the changelog does not name {len(unnamed)} of them")
    return len(unnamed)


def main() -> int:
    """Compare with the last releases, or with the commit that was given."""
    parser = argparse.ArgumentParser(prog="python -m tools.api_changes", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--against", metavar="COMMIT", help="Compare with this commit alone.")
    against = parser.parse_args().against
    if git(ROOT, "rev-parse", "--is-shallow-repository") != "false":
        print("NOT COMPARED: earlier releases need the whole history of a clone; git fetch --unshallow --tags gets it")
        return 0
    releases = {against: git(ROOT, "rev-parse", "--verify", f"{against}^{{commit}}")} if against else earlier_releases()
    if not all(releases.values()):
        sys.exit(f"--against is {against}, which is no commit of this repository; give a tag or a commit")
    if not releases:
        print(f"NOT COMPARED: no commit of an earlier release that {CHANGELOG} lists is in this history")
        return 0
    unnamed = sum(compare(label, commit) for label, commit in releases.items())
    if unnamed:
        print(f"name each in {CHANGELOG} in backticks, under 'Changed: who should care'", file=sys.stderr)
    return 1 if unnamed else 0


if __name__ == "__main__":
    sys.exit(main())
