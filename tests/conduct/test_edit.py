"""An edited constitution through the real flow: the version before is kept, and the report says what became of it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cai.report.page import write_report
from cai.report.status import run_status
from cai.report.summary import print_status
from cai.rows import Judgment, Pair, Revision
from cai.store import read_rows
from tests.conduct.here import judge, pipeline
from tests.flows.small import CONSTITUTION, ROWS, obliging, small_run
from tests.wire import wire_server

pytestmark = pytest.mark.anyio

REWORDED = CONSTITUTION.replace("Be honest.", "Be truthful.")
ADDED = CONSTITUTION + "  - {id: plain, statement: Use <b>plain</b> words.}\n"


def rows_of(folder: Path, stage: str, row: Any) -> dict[str, Any]:
    """The rows of a stage by id."""
    return {
        one.id: one for path in sorted((folder / stage).glob("rows-*.jsonl")) for one in read_rows(path, row)
    }


def shown(status: dict[str, Any]) -> str:
    """What `cai status` prints."""
    console = Console(width=200, record=True, file=io.StringIO())
    print_status(status, console)
    return console.export_text()


@pytest.mark.slow
async def test_a_reworded_principle_is_told_row_by_row(tmp_path: Path) -> None:
    """It moves no row, and what is counted is what is different in the rows; a comment keeps no version."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        constitution = Path(config.constitution)
        await pipeline(config)
        constitution.write_text(f"# a comment\n{CONSTITUTION}")
        status = await pipeline(config)
        assert status["edit"] is None and not (config.root / "previous").exists()
        assert "edit " not in shown(status)
        constitution.write_text(REWORDED)
        status = await pipeline(config)
    found, root, previous = status["edit"], config.root, config.root / "previous"
    assert [(one["kind"], one["principle"]) for one in found["changes"]] == [("reworded", "honest")]
    assert found["config"] == [] and found["skipped"] is None
    assert "edit     honest reworded (statement)" in shown(status)
    old, new = (rows_of(folder, "revise", Revision) for folder in (previous, root))
    met = found["revisions"]["met"]
    asked_again = sum(old[name].rounds != new[name].rounds for name in old)
    assert len(old) == len(new) == ROWS
    assert met["moved"] == 0 and met["asked_again"] == asked_again > 0
    assert met["untouched"] == ROWS - asked_again > 0
    assert found["revisions"]["rewritten"] == sum(old[name].final != new[name].final for name in old) > 0
    was, now = (rows_of(folder, "judge", Judgment) for folder in (previous, root))
    labels = found["judgments"]["judge"]
    same = [name for name in was if name in now and was[name].b.text == now[name].b.text]
    assert labels["met"]["other_texts"] == len(was.keys() & now.keys()) - len(same)
    assert labels["lost"] == sum(was[n].state == "labelled" != now[n].state for n in same)
    assert labels["met"]["asked_again"] == sum(was[n].verdicts != now[n].verdicts for n in same) > 0
    _check_pairs(found["pairs"], *(rows_of(folder, "pairs", Pair) for folder in (previous, root)))


def _check_pairs(found: dict[str, int], old: dict[str, Pair], new: dict[str, Pair]) -> None:
    both = [([old[n].chosen, old[n].rejected], [new[n].chosen, new[n].rejected]) for n in old if n in new]
    swapped = sum(before == after[::-1] for before, after in both)
    same = sum(before == after for before, after in both)
    assert found == {
        "before": len(old), "after": len(new), "both": len(both), "swapped": swapped,
        "rewritten": len(both) - swapped - same,
    }  # fmt: skip


async def test_an_added_principle_moves_the_rows_that_it_wins(tmp_path: Path) -> None:
    """And nothing else is asked again; the version before is kept after `cai run`, told after either flow."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        await pipeline(config)
        old = rows_of(config.root, "revise", Revision)
        Path(config.constitution).write_text(ADDED)
        await judge(config)
    found = run_status(config.root)["edit"]["revisions"]["met"]
    assert rows_of(config.root / "previous", "revise", Revision) == old
    assert {move["after"] for move in found["moves"]} <= {"plain", None}
    now = rows_of(config.root, "revise", Revision).values()
    moved = sum("plain" in [done.principle for done in row.rounds] for row in now)
    assert found["asked_again"] == 0 and 0 < found["moved"] == moved < ROWS
    page = write_report(config).read_text()
    assert "What the edit changed" in page and "Use &lt;b&gt;plain&lt;/b&gt; words." in page
    assert "<b>plain</b>" not in page[page.index("<body>") :]


async def test_coverage_counts_what_the_stages_published(tmp_path: Path) -> None:
    """Each round and each comparison counts for its principles; a principle that no prompt has is named."""
    async with wire_server(reply=obliging) as server:
        config = small_run(tmp_path, server.openai_url)
        Path(config.constitution).write_text(
            CONSTITUTION + "  - {id: dosage, statement: Give no dosage., applies_to: [medical]}\n"
        )
        status = await pipeline(config)
    found = status["coverage"]
    assert found == json.loads((config.root / "coverage.json").read_text())
    revised = rows_of(config.root, "revise", Revision).values()
    judged = rows_of(config.root, "judge", Judgment).values()
    for name in ("kind", "honest", "brief", "dosage"):
        rounds = [done for row in revised for done in row.rounds if done.principle == name]
        revising, judging = found["revising"][name], found["judging"][name]
        assert (revising["drawn"], revising["violated"]) == (
            len(rounds),
            sum(done.violated for done in rounds),
        )
        asked = [row for row in judged if name in {v.principle for v in row.verdicts}]
        assert judging["drawn"] == len(asked)
        assert judging["labels"] == sum(row.state == "labelled" for row in asked)
        assert revising["better"] + revising["worse"] + revising["undecided"] == revising["judged"]
    judged_revisions = [row for row in judged if row.b.kind == "revision"]
    assert 0 < len(judged_revisions) <= sum(one["judged"] for one in found["revising"].values())
    assert [one["kind"] for one in found["findings"] if one["principle"] == "dosage"] == ["never_drawn"] * 2
    text = shown(status)
    assert "dosage was never drawn to judge: none of" in text
    assert f"{found['revising']['kind']['better']}/{found['revising']['kind']['judged']}" in text
