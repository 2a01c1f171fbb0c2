"""The examples in docstrings, README and docs are tests: Sybil runs them; nothing is kept in the user's own cache."""

import atexit
import os
import shutil
import tempfile
from doctest import ELLIPSIS
from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

if "CONVOLITH_CACHE_DIR" not in os.environ:  # before anything is compiled; child processes inherit it
    os.environ["CONVOLITH_CACHE_DIR"] = tempfile.mkdtemp(prefix="convolith-tests-")
    atexit.register(shutil.rmtree, os.environ["CONVOLITH_CACHE_DIR"], ignore_errors=True)

if "PYTEST_XDIST_WORKER" in os.environ:  # threads that wait leave the cores to the tests of the other processes
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

HERE = Path(__file__).parent
pytest_plugins = ["tests.web_browser"]


def _leave(namespace: dict[str, Any]) -> None:
    os.chdir(HERE)
    shutil.rmtree(namespace["folder"], ignore_errors=True)


def _enter(namespace: dict[str, Any]) -> None:
    """Let the examples of a document write their files into a folder of their own."""
    namespace["folder"] = tempfile.mkdtemp(prefix="convolith-docs-")
    os.chdir(namespace["folder"])


PAGES = ["README.md", "docs/*.md", "docs/*/*.md"]
markdown = Sybil(parsers=[PythonCodeBlockParser()], patterns=PAGES, setup=_enter, teardown=_leave)
docstrings = Sybil(parsers=[DocTestParser(ELLIPSIS)], path="src", patterns=["*.py"])  # at any depth
pytest_collect_file = (markdown + docstrings).pytest()
