"""Models run without memory: structural copies, fake tensors, and which module an operator belongs to."""
