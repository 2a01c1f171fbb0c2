"""Computations of the second process, which can be ended at any moment: filtered pictures, fits, costs of networks."""
