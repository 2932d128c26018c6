"""``weirguard serve-demo``: the demo's model server, guarded by the SDK as your own would be."""

from __future__ import annotations

from typing import Annotated

import typer


def serve_demo(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 in a container.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.")] = 8000,
) -> None:
    """Serve digits on POST /predict and tumours on POST /tumours/predict; logs queries and applies decisions.

    Kafka is that of the detector's WEIRGUARD_* settings.
    """
    import uvicorn

    from detector.lab.server import create_demo, guard
    from detector.runtime.settings import load_settings

    settings = load_settings()
    app = guard(create_demo(), settings.kafka)
    uvicorn.run(app, host=host, port=port, log_level="warning")
