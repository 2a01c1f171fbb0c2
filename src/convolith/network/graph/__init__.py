"""A model as a graph of few kinds of nodes: torch's operators of one call, read, and elementwise work fused."""
