"""PostgreSQL to SQLite: rows written since the cutover, into a copy of the frozen file."""
