"""Phase 5: both sides compared on any day, and the functional checks."""
