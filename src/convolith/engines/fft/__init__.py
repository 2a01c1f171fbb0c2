"""The Fourier engine: its answers, its tiles, and the code that it generates."""
