"""The Winograd engine: its answers, its transforms, and the code that it generates."""
