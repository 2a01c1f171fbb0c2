"""Memory that the kernels of torch and of Convolith hold while they run."""
