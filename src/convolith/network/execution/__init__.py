"""Execution of a graph: places in memory, ways to compute each node, programs, calls."""
