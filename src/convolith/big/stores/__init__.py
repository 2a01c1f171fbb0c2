"""Stores: sources that are read, results that are written, their metadata, and the journal of what is stored."""
