"""Kernel gradient of layers with few channels per group, by generated code."""
