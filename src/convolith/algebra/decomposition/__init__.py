"""Factorisation of a convolution into smaller ones: `decompose`, one method per file, and the certified error bound."""
