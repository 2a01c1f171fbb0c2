"""The data of a fit: read and checked, positions of pixels, polynomials of position."""
