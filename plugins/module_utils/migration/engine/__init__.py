"""Moves the rows of one cutover group: plan, convert, prepare, transfer, prove; and export rows to SQLite."""
