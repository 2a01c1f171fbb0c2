"""`convolith` and `python -m convolith`: the command line, which Ctrl-C ends in one line from its first import on."""

from __future__ import annotations

import sys


def run() -> None:
    """Run the command line and exit with its code.

    The command line turns Ctrl-C into exit code 130 by itself; this is for the time before it is imported.
    """
    try:
        from convolith.cli import main

        main()
    except KeyboardInterrupt:
        print("Interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
