"""`python -m docs`: builds the documentation's site, without a network; warnings are errors."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tomllib
from pathlib import Path
from time import perf_counter

FLAGS = ("-b", "html", "-q", "-n", "-W", "--keep-going", "-j", "2")  # two processes; warnings are errors
ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "site"
REDIRECT = """<!doctype html>
<meta charset="utf-8">
<title>Convolith</title>
<meta http-equiv="refresh" content="0; url=docs/index.html">
"""


def missing_packages() -> list[str]:
    """Return the packages of the extra `docs`, and of the extras in it, that are not installed or too old."""
    try:
        from convolith.cli.doctor.installation import of_extra
    except ImportError as problem:
        return [str(problem.name)]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    lines = [f"{line}; extra == '{extra}'" for extra, needed in extras.items() for line in needed]
    return sorted({one.wanted for one in of_extra(lines, "docs") if one.wanted})


def main() -> int:
    """Build the site, and check its links; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs", description="Build the documentation's site.")
    parser.add_argument("--out", type=Path, default=SITE, help="Folder of the pages (build/site).")
    parser.add_argument("--fresh", action="store_true", help="Run every block again, also where nothing has changed.")
    options = parser.parse_args()
    options.out = options.out.resolve()
    missing = missing_packages()
    if missing:
        words = ", ".join(missing)
        sys.exit(f"python -m docs: the extra docs needs {words}; run: pip install -c constraints.txt -e '.[docs]'")
    from sphinx.cmd.build import build_main

    from docs.site.links import dead_links

    is_new = not options.out.exists() or not any(options.out.iterdir())
    if not is_new and options.out != SITE and not (options.out / ".buildinfo").exists():
        sys.exit(f"--out is {options.out}, which holds something that is no site; give an empty or a new folder")
    start, state = perf_counter(), ROOT / "build" / "site-state"
    # Choices that this user's machine remembers do not belong on the pages.
    os.environ["CONVOLITH_CACHE_DIR"] = str(ROOT / "build" / "site-cache")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave the cores to the other page
    if options.fresh:
        for folder in (state, ROOT / "build" / "site-blocks", ROOT / "build" / "site-cache"):
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(options.out, ignore_errors=True)  # pages that no longer exist would stay
    code = build_main([*FLAGS, "-d", str(state), "-c", str(ROOT / "docs" / "site"), str(ROOT), str(options.out)])
    if code:
        return int(code)
    (options.out / "index.html").write_text(REDIRECT, encoding="utf-8")
    dead = dead_links(options.out)
    for link in dead:
        print(link, file=sys.stderr)  # noqa: T201 - what the command says
    pages = len(list(options.out.glob("**/*.html")))
    print(f"{pages} pages in {options.out}, {perf_counter() - start:.0f} s")  # noqa: T201 - likewise
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
