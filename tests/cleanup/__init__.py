"""Tests of cleanup: the plan, the soak, the archive, the quarantine, and attacks on it."""
