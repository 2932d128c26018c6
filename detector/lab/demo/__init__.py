"""``weirguard demo``: the whole product on one machine, a thief among honest users, and what became of him."""
