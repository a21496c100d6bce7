"""The forward mapping of one value."""
