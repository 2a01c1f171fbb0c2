"""The gradient of a kernel where few channels meet, by generated code."""
