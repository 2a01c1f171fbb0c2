"""Moments of a fit: sums of products of pixels at every lag of a kernel."""
