"""Backups of the database: taken, restored in a test, copied, restored."""
