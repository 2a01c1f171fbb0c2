"""Readers of torch's operators as nodes, by kind of operator; `table` lists them."""
