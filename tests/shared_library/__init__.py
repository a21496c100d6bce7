"""Tests of the library that the services share."""
