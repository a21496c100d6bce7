"""Brings a group that lives on PostgreSQL back to SQLite, with its rows."""
