"""Omission of one tile of the data at a time: cross-validation and the jackknife."""
