"""Solution of a fit from its moments: normal equations, least squares, bases and constraints."""
