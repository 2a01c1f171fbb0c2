"""Sources of the documentation's site, which `python -m docs` builds."""
