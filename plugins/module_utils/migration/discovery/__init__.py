"""Looks at a host without changing anything, and drafts the inventory and the SQL of the estate that it finds."""
