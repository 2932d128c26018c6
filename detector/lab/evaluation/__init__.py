"""``weirguard evaluate``: which attacks are caught, when, and how good the clone was by then."""
