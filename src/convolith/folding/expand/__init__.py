"""Inverse of folding: a convolution becomes branches that train better and fold back to it."""
