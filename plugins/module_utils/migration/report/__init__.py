"""The report of a run, as JSON and as HTML."""
