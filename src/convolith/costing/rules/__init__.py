"""What each operator of torch counts: the table, and its formulas."""
