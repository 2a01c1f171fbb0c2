"""`python -m convolith.web`: the explorer, opened in the browser; its path goes to stdout."""

from __future__ import annotations

import webbrowser

from convolith.web import explorer

if __name__ == "__main__":
    print(explorer())
    webbrowser.open(explorer().as_uri())
