"""How much of the owner's model a principal's queries have told him (Kesarwani, Mukhoty, Arya, Mehta, ACSAC 2018).

An exposure is a meter, never an accusation: honest principals learn a model too, and faster per query than most
thieves.
"""

from __future__ import annotations

EXPOSURES = ("information_gain", "coverage")
"""The signals whose statistic is an exposure in percent."""
