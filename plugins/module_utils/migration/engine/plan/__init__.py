"""How each column of each table is converted: decided before a value is touched."""
