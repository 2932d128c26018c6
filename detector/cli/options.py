"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Json = Annotated[bool, typer.Option("--json", help="For scripts: JSON on standard output, and nothing else there.")]
Output = Annotated[Literal["text", "json"], typer.Option("-o", "--output", hidden=True)]
"""``-o json`` is ``--json`` as scripts of before it say it."""
