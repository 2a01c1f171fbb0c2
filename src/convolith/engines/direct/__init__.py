"""The engine of direct sums: its answers, its blocks, and the code that it generates."""
