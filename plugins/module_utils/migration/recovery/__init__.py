"""Brings a window to an end that nobody looks after any more: what the unit on the host runs."""
