"""What a terminal would show."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, RenderableType


def drawn(renderable: RenderableType, width: int = 120, height: int = 40) -> str:
    console = Console(file=StringIO(), width=width, height=height, force_terminal=False)
    console.print(renderable)
    output = console.file
    assert isinstance(output, StringIO)
    return output.getvalue()
