"""Rules that count the operations of torch's operators: the table, and its formulas."""
