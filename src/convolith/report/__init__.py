"""Plain rows as text, JSON and pages; it knows no other room."""
