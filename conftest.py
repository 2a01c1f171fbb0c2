"""The examples in docstrings, README and docs are tests: Sybil runs them; nothing is kept in the user's own cache."""

import atexit
import os
import shutil
import tempfile

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser

if "CONVOLITH_CACHE_DIR" not in os.environ:  # before anything is compiled; child processes inherit it
    os.environ["CONVOLITH_CACHE_DIR"] = tempfile.mkdtemp(prefix="convolith-tests-")
    atexit.register(shutil.rmtree, os.environ["CONVOLITH_CACHE_DIR"], ignore_errors=True)

markdown = Sybil(parsers=[PythonCodeBlockParser()], patterns=["README.md", "docs/*.md"])
docstrings = Sybil(
    parsers=[DocTestParser()],
    patterns=["src/**/*.py"],
    setup=lambda namespace: namespace.update(_public()),
)


def _public() -> dict[str, object]:
    """The public names, which a docstring's example may use without importing them."""
    import convolith

    return {name: getattr(convolith, name) for name in convolith.__all__}


pytest_collect_file = (markdown + docstrings).pytest()
