"""Winograd engine: its interface, its transforms and its generated code."""
