"""The own queries that are kept of each principal, and the nearest of them."""
