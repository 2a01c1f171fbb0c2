"""Data of a fit: reading and checks, positions of pixels, polynomials of position."""
