"""The temporary server of a run: `python -m flows.temporary --host HOST --port PORT`, Prefect's own app with uvicorn.

A run waits for it, so it loads lean: looking again and again through the million objects that loading makes, for
garbage that is not there, took a sixth of the start.
"""

from __future__ import annotations

import argparse

from cai.process import loading


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    with loading():
        import uvicorn
        from prefect.server.api.server import create_app

        app = create_app()
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="error", lifespan="on")


if __name__ == "__main__":
    main()
