"""Tiles of the data left out in turn: cross-validation and the jackknife."""
