"""Sorts rows by the path they take, converts those of the slow path, and finds every violation."""
