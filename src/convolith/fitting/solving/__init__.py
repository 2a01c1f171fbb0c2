"""How the moments are solved: normal equations, least squares, bases and constraints."""
