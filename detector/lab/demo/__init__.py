"""``weirguard demo``: the whole product on one machine, thieves among honest users, and how they fare."""
