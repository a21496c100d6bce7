"""The target: its catalog, schema, privileges and content."""
