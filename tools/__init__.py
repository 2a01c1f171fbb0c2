"""Tools of the maintainers: releases, public names that changed, what the README tells, versions of torch."""
