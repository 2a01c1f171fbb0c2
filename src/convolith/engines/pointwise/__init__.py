"""The engine of 1x1 kernels: its answers, its tiles, and the code that it generates."""
