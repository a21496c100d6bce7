"""Tests of validation, the functional checks, the report and the cleanup plan."""
