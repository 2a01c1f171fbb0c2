#!/usr/bin/env python3
"""Compare the public names and parameters with those of the last tag, and exit with 1 where one is missing or changed.

    python tools/api_changes.py [TAG]

Public is what `__all__` of the package and of its rooms lists (`docs/names.md`): functions with their parameters, and
classes with the attributes and methods that have no underscore. Without a tag there is nothing to compare with, and the
exit code is 0.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "convolith"


def last_tag() -> str | None:
    """Return the newest tag before this commit, or None."""
    command = ["git", "describe", "--tags", "--abbrev=0"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def public_objects(module: griffe.Object | griffe.Alias, name: str) -> Iterator[tuple[str, griffe.Object]]:
    """Yield the public names of a module and of the rooms below it, with what they stand for."""
    for entry in map(str, module.exports or []):
        found = module[entry]
        target = found.final_target if found.is_alias else found
        if target.is_module:
            yield from public_objects(target, f"{name}.{entry}")
        else:
            yield f"{name}.{entry}", target


def holding(found: griffe.Object) -> griffe.Module:
    """Return a module that has one member, since griffe compares the members of modules."""
    module = griffe.Module("cl")
    module.members["it"] = found
    return module


def changes(tag: str) -> list[str]:
    """Return what is missing or has changed in the public names since a tag, one sentence each."""
    source = {"search_paths": ["src"], "resolve_aliases": True}
    before = dict(public_objects(griffe.load_git(PACKAGE, ref=tag, repo=ROOT, **source), "cl"))
    now = dict(public_objects(griffe.load(PACKAGE, search_paths=[ROOT / "src"], resolve_aliases=True), "cl"))
    found = [f"{name} is missing" for name in before if name not in now]
    for name in before.keys() & now.keys():
        breaking = griffe.find_breaking_changes(holding(before[name]), holding(now[name]))
        found += [f"{name}: {one.explain(griffe.ExplanationStyle.ONE_LINE)}" for one in breaking]
    return sorted(set(found))


def main() -> int:
    """Print what changed since the last tag, or since the one that was given."""
    tag = sys.argv[1] if len(sys.argv) > 1 else last_tag()
    if tag is None:
        print("no tag yet to compare the public names with")
        return 0
    found = changes(tag)
    print("\n".join(found) or f"the public names and parameters of {tag} are all there")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
