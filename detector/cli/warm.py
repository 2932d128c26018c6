"""``weirguard warm``: compiles all loops for this machine, as a step of a build or an installation."""

from __future__ import annotations

import time

from detector.cli.loops import Told
from detector.cli.screen import say
from detector.contracts.errors import ConfigurationError


class _Strict(Told):
    """Keeps what went wrong."""

    def __init__(self) -> None:
        super().__init__(each=True)
        self.troubles: list[str] = []
        self.compiled = 0

    def compiling(self, name: str) -> None:
        self.compiled += 1
        super().compiling(name)

    def slow(self, why: str) -> None:
        self.troubles.append(why)

    def not_kept(self, why: str) -> None:
        self.troubles.append(why)


def warm() -> None:
    """Compile all loops for this machine and keep the machine code on disk: in the folder that WEIRGUARD_CACHE names,
    else beside the installed package, else in your cache folder. Ends with status 2 if that is not possible."""
    from detector.core.loops.compiled import SWITCH, is_off, listen, loops
    from detector.core.warm import warm_all

    if is_off():
        raise ConfigurationError(f"{SWITCH} is off: nothing is compiled; unset it")
    heard = _Strict()
    listen(heard)
    started = time.monotonic()
    warm_all()
    if heard.troubles:
        raise ConfigurationError("; ".join(heard.troubles))
    seconds = time.monotonic() - started
    say(f"{len(loops())} loops are ready: {heard.compiled} compiled now, {seconds:.1f} s")
