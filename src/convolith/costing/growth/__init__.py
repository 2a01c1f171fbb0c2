"""How a cost grows: scaled copies of models, before and after, and closed forms."""
