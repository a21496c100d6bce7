"""Files out of everybody's reach but root's, with a tombstone where each was, and an archive."""
