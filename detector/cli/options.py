"""Options that several commands have."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Literal

import typer

OutputKind = Literal["probability", "score", "label", "probabilities", "none"]
"""Values of ``--outputs``."""

Json = Annotated[bool, typer.Option("--json", help="For scripts: JSON on standard output, and nothing else there.")]
SettingsFile = Annotated[Path | None, typer.Option("--settings", help="YAML file; WEIRGUARD_* variables win.")]

LOGS = "Query logs: .jsonl, .csv, .tsv (also .gz or .zst), .parquet, or folders of these."
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        help="Map roles to columns, such as principal=user_id,features=f_*,outputs=p_no|p_yes,model=@credit.",
        show_default=False,
    ),
]
Merge = Annotated[
    bool, typer.Option("--merge", help="Merge the files by occurred_at, instead of reading them in turn.")
]
Profiles = Annotated[
    list[Path] | None,
    typer.Option("--profile", help="Profile of a model version, from weirguard calibrate. [default: the setting]"),
]

Reason = Annotated[str, typer.Option("--reason", help="The reason, for the audit record.")]
Issuer = Annotated[
    str, typer.Option("--issuer", help="Your name, for the audit record.", default_factory=getpass.getuser)
]
Wait = Annotated[float, typer.Option("--wait", min=0.0, help="Seconds to wait for the detector's answer.")]
ApiKey = Annotated[bool, typer.Option("--api-key", help="PRINCIPAL is an API key ('-' asks for it): hash it first.")]
