"""Third stage of folding: replace several nodes of the graph by one convolution."""
