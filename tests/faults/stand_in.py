"""A stand-in for vLLM's server, which speaks its protocol and starts in a second: to be killed while it is in use.

`package` makes a folder in which it is found as vLLM; every call that it gets adds a byte to the file of CALLS.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from pathlib import Path

from tests.flows.small import obliging
from tests.wire import Json, wire_server

CALLS = "CAI_STAND_IN_CALLS"
DELAY_S = 0.05
ROOT = Path(__file__).parents[2]
WHERE = "vllm/entrypoints/openai/api_server.py"
PROGRAM = "import asyncio\nfrom tests.faults.stand_in import main\nasyncio.run(main())\n"


class Told(list[Json]):
    """The requests of a server, whose number is kept in a file as well, as they arrive."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, body: Json) -> None:
        """Count, then keep."""
        os.write(self._file, b".")
        super().append(body)


def package(folder: Path) -> dict[str, str]:
    """Write the stand-in; returns the environment in which a managed server is it, and counts its calls."""
    program = folder / "site" / WHERE
    program.parent.mkdir(parents=True, exist_ok=True)
    for parent in list(program.parents)[:3]:  # else the real package would be found first
        (parent / "__init__.py").touch()
    program.write_text(PROGRAM)
    return {"PYTHONPATH": os.pathsep.join((str(folder / "site"), str(ROOT))), CALLS: str(folder / "calls")}


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--served-model-name")
    parser.add_argument("--port", type=int)
    known, _ = parser.parse_known_args()
    models = (known.served_model_name,)
    key = os.environ["VLLM_API_KEY"]
    async with wire_server(obliging, models=models, key=key, delay_s=DELAY_S, port=known.port) as server:
        server.requests = Told(os.environ[CALLS])
        await asyncio.Event().wait()
