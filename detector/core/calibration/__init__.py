"""Makes thresholds from the owner's honest traffic, with pure functions."""
