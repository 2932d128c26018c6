"""``weirguard evaluate``: which attacks are caught, when, and what had the thief got by then."""
