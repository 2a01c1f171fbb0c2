"""Fourier engine: its interface, its tiles and its generated code."""
