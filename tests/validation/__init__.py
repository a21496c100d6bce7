"""Tests of validation, the functional checks and the report."""
