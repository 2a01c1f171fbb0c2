"""What the second process does: pictures filtered by every engine, fits, networks. It can be ended at any moment."""
