"""Second stage of folding: find the nodes of a graph that equal one convolution, and choose those that save time."""
