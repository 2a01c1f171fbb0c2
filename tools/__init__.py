"""Tools of the maintainers: what a release consists of, public names, what the README tells a newcomer, versions of torch."""
