"""SQLite to PostgreSQL: the run of the engine, full or incremental."""
