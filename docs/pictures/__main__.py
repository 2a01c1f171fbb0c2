"""`python -m docs.pictures`: draws the pictures that the command line names, or all."""

import argparse
from pathlib import Path

from docs.pictures import IMAGES, PICTURES, draw


def main() -> None:
    """Draw pictures."""
    parser = argparse.ArgumentParser(prog="python -m docs.pictures", description="Draw the pictures of docs/how.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(PICTURES)}; all by default")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures (docs/images)")
    options = parser.parse_args()
    draw(options.out, options.names or tuple(PICTURES))


if __name__ == "__main__":
    main()
