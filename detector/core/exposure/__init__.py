"""How much of the owner's model a principal has learned from the answers (Kesarwani, Mukhoty, Arya, Mehta, ACSAC 2018).

An exposure is a meter and raises no alarm: honest principals learn a model too, and faster per query than most thieves.
"""

from __future__ import annotations

EXPOSURES = ("information_gain", "coverage")
"""The signals whose statistic is an exposure in percent."""
