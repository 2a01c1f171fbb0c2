"""The build of the documentation's site, which `python -m docs` runs: its pages are the repository's own files."""
