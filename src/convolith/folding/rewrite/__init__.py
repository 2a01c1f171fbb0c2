"""The third stage of folding: the graph with one convolution in the place of several."""
