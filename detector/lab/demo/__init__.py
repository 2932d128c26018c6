"""``weirguard demo``: the whole product on one machine, with thieves among honest users."""
