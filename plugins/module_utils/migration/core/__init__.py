"""What every other package stands on: errors, the estate, the ledger and its states, connections, files."""
