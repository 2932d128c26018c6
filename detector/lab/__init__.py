"""The red team: victims, thieves, honest users, and the demo that combines them.

Nothing here is part of the detector, and the production image leaves it out. Everything is seeded: the same
seed gives the same queries.
"""
