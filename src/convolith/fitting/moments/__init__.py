"""How the moments of a fit are accumulated: sums of products of pixels at every lag of a kernel."""
