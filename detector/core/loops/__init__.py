"""How loops over rows are compiled, and small ones that several use."""
