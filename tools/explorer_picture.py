"""Take the picture of the explorer's first view that docs/explorer.md shows, in Chromium.

    python -m tools.explorer_picture [--out FILE]

Needs Chromium and Playwright, of the extra `test`. The page is opened as a file, as `python -m convolith.web` does.
"""

import argparse
import shutil
import sys
from pathlib import Path

from convolith.web import STATIC

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "explorer.png"
WIDTH, HEIGHT = 1280, 900
"""Pixels of the window, of which the picture is a copy."""


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description="Take the picture of the explorer that docs/explorer.md shows.")
    parser.add_argument("--out", type=Path, default=PICTURE, help="file of the picture (docs/images/explorer.png)")
    options = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit("Playwright is not installed; install the extra: pip install -e '.[test]'")
    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto((STATIC / "index.html").as_uri())
        page.wait_for_selector("main h2")
        page.get_by_text("Loading …").wait_for(state="detached")
        page.screenshot(path=options.out)
        browser.close()
    print(options.out)


if __name__ == "__main__":
    main()
