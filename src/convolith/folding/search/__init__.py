"""The second stage of folding: which nodes of a graph equal one convolution, and which of these pay."""
