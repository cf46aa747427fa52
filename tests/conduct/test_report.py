"""A run leaves `filter.json`, and its counts are those of the other reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from cai.report.status import run_status
from tests.conduct.here import judge, pipeline
from tests.flows.small import obliging, small_run
from tests.wire import wire_server

pytestmark = pytest.mark.anyio


async def test_runs_say_what_the_filter_did(tmp_path: Path) -> None:
    """Kept judgments are those that were offered as pairs, after the judge flow as after the pipeline."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        for run in (judge, pipeline):
            (config.root / "filter.json").unlink(missing_ok=True)
            await run(config)
            status = run_status(config.root)
            pairs = status["stages"]["pairs"]
            assert status["filter"]["judged"] == status["stages"]["judge"]["rows_out"]
            assert status["filter"]["kept"] == pairs["rows_out"] + pairs["drops"].get("duplicate", 0) > 0
            assert status["filter"]["principle"].keys() == {"kind", "honest", "brief"}
    assert "What the filter keeps" in (config.root / "report.html").read_text()
