"""Promotion of one tree from environment to environment, on signed evidence. Runs on the controller only."""
