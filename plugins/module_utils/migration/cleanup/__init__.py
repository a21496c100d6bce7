"""Phase 6: the plan, its conditions, the soak time, and the steps of each file."""
