"""Reads profiles from their files, and describes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from detector.contracts.errors import ConfigurationError
from detector.core.profile.profile import Profile


def read_profiles(paths: Sequence[Path]) -> tuple[Profile, ...]:
    """Returns the profiles in ``paths``. Raises ConfigurationError where one is missing or damaged, or two are for one
    model version."""
    place: dict[tuple[str, str], Path] = {}
    profiles = []
    for path in paths:
        profile = _read(path)
        earlier = place.setdefault((profile.model, profile.model_version), path)
        if earlier is not path:
            who = f"{profile.model} {profile.model_version}"
            raise ConfigurationError(f"{earlier} and {path} are both profiles of {who}; keep one")
        profiles.append(profile)
    return tuple(profiles)


def hashes(profiles: Sequence[Profile]) -> dict[str, str]:
    """The hash of the profile of each model version, by their names."""
    return {f"{own.model} {own.model_version}": own.hash for own in profiles}


def told(profiles: Sequence[Profile]) -> Iterator[str]:
    """Yields a line for people on each of ``profiles``."""
    for own in profiles:
        made = ", ".join(f"{name} {own.made[name]:g}" for name in ("accounts", "queries", "budget") if name in own.made)
        yield f"profile {own.hash} of {own.model} {own.model_version}" + (f": {made}" if made else "")


def uncalibrated(what: str) -> str:
    """Returns the warning that no profile judges ``what``."""
    return (
        f"UNCALIBRATED: {what} is judged without a profile of honest traffic: honest accounts may be flagged in "
        "numbers, and most kinds of thieves missed"
    )


def _read(path: Path) -> Profile:
    try:
        return Profile.from_bytes(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"profile {path}: cannot read it: {error.strerror or error}") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"profile {path}: {error}") from error
