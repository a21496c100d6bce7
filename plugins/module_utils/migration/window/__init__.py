"""What cutover and rollback share: checks, services, locks, signals, and the frozen file."""
