"""Low-rank kernels: along the rows, then down the columns, in one pass over the image."""
