"""Engine of direct sums: its interface, its blocks and its generated code."""
