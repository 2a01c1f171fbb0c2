"""Tables, JSON, plots and HTML pages from plain data; independent of the other subpackages."""
