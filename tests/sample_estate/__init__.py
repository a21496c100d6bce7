"""The sample estate: its databases and its services."""
