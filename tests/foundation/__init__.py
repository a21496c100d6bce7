"""Tests of what every step stands on: states, ledger, inventory, connections."""
