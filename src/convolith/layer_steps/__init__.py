"""Layers of networks that are no convolutions, as steps of a program: generated code over planes of an image."""
