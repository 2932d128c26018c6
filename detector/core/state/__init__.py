"""State by dense numbers: columns, rings, pools, principals, and the rows of a step."""
