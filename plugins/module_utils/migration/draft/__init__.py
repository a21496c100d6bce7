"""From an SQLite file alone: the target's SQL and the mapping, drafted for a person to read."""
