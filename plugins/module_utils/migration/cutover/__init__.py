"""Moves a group's services to PostgreSQL in one window, and keeps them there."""
