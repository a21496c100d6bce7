"""The source: snapshots of SQLite files, and what they hold."""
