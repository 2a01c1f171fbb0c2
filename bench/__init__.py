"""Benchmarks: Convolith against its peers, in turn in one run, after the results were compared."""
