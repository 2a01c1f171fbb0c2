"""The explorer's files: where they are, how large, and what they contain."""

import gzip
import os
import re
import subprocess
import sys

from convolith.web import STATIC, explorer


def test_the_bundle_is_small_and_runs_no_text_as_code():
    sizes = {path.name: len(gzip.compress(path.read_bytes(), 9)) for path in STATIC.iterdir()}
    assert sizes["explorer.js"] + sizes["explorer.css"] < 60_000
    assert sum(sizes.values()) < 150_000
    assert sum(path.stat().st_size for path in STATIC.iterdir()) < 400_000
    for name in ("explorer.js", "more.js", "server.js"):
        script = explorer().with_name(name).read_text()
        assert not re.search(r"(?<!\.)\beval\(", script)
        assert "new Function" not in script
        assert name == "explorer.js" or "innerHTML" not in script, "preact alone has it, where a component asks for it"
    notices = explorer().with_name("THIRD-PARTY-NOTICES.txt").read_text()
    assert "preact 10.29" in notices
    assert "uplot 1.6" in notices


def test_the_module_says_where_the_page_is():
    shown = subprocess.run(
        [sys.executable, "-m", "convolith.web"],
        env={**os.environ, "BROWSER": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == str(explorer())
    assert explorer().exists()
