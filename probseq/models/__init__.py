"""The families, one per file."""
