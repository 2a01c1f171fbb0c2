"""The memory that kernels hold while they run: torch's and Convolith's own."""
