"""The kinds of destination by name."""
