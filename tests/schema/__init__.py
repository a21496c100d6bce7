"""Tests of the schema and its privileges, against a real PostgreSQL."""
