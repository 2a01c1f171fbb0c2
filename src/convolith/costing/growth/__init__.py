"""Growth of costs: scaled copies of models, comparisons before and after scaling, and closed forms."""
