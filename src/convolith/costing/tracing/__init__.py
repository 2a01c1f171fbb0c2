"""Runs of models without memory: structural copies, fake tensors, and the module of each operator."""
