"""Engine of 1x1 kernels: its interface, its tiles and its generated code."""
