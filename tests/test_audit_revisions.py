"""`cai audit revisions`: every check on a chain that has the fault and on one that nearly has it; formats; a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cai.audit import leaks
from cai.audit.chains import chain_of
from cai.audit.findings import quote
from cai.cli import app
from cai.errors import ConfigError
from cai.parse import leaked_prefix, parse_revision
from cai.rows import Candidate, Judgment, Message, Prompt, Reply, Revision, RevisionRound, Row
from cai.shard import ShardReport, shard_paths, write_manifest
from cai.store import write_json, write_rows

SHARED = Path(__file__).parents[2] / "shared/data/revisions/anthropic_INSTRUCTGPT_SLMADISON.jsonl"
LONG = "Plant the bulbs in October, a hand deep, and water them once a week until the first frost comes. "


def audit(*arguments: object) -> Any:
    done = CliRunner().invoke(app, ["audit", "revisions", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def found_in(path: Path, *options: str) -> dict[str, list[str]]:
    """Which rows each check lists."""
    checks = json.loads(audit(path, "--json", *options).stdout)["checks"]
    return {name: [one["id"] for one in check["listed"]] for name, check in checks.items() if check["listed"]}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chain(
    id: str, initial: str, revision: str, critique: str = "It could be kinder.", **more: Any
) -> dict[str, Any]:
    return {"id": id, "prompt": "How do I plant tulips?", "initial": initial, "critique": critique,
            "revision": revision, **more}  # fmt: skip


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # the fault, and what nearly has it
    "unchanged": (chain("bad", LONG, f" {LONG}\n"), chain("good", LONG, "Plant them in March instead.")),
    "near_unchanged": (
        chain("bad", LONG * 2, LONG * 2 + "Enjoy."),
        chain("good", LONG, LONG.replace("October", "March").replace("a hand", "two hands").replace("week", "day")),
    ),
    "prefix_leak": (
        chain("bad", "Dig.", "Sure, here is the revised response: Dig a small hole."),
        chain("good", "Dig.", "Sure, here is a plan: dig a small hole."),
    ),
    "marker_leak": (
        chain("bad", "Dig.", "Dig a small hole.\n\nHuman: And then?"),
        chain("good", "Dig.", "Dig a small hole. Humans do: it is easy."),
    ),
    "critique_leak": (
        chain("bad", "Dig.", "Dig. The assistant should have named the month.",
              "The assistant should have named the month."),
        chain("good", "Dig.", "Dig a hole in October, when the soil is cool.",
              'It does not say when. Write "dig a hole in October, when the soil is cool" for instance.'),
    ),
    "meta_talk": (
        chain("bad", "Dig.", "As my previous response was rude, I now say: please dig."),
        chain("good", "Dig as in the previous answer.", "Please dig as in the previous answer."),
    ),
    "evasive": (
        chain("bad", LONG, "I'm sorry, but I can't help with that."),
        chain("good", "I can't help with that.", "I'm sorry, but I can't help with that."),
    ),
    "no_effect": (
        {"id": "bad", "initial": "Dig.", "revisions": ["Dig a hole.", "Dig."]},
        {"id": "good", "initial": "Dig.", "revisions": ["Dig a hole.", "Dig two."]},
    ),
    "growth": (chain("bad", LONG, LONG * 4), chain("good", LONG, LONG * 2)),
    "still_violating": (
        {"id": "bad", "initial": "Dig.", "rounds": [
            {"critique": "Rude.\nVERDICT: breaks", "revision": "Please dig."},
            {"critique": "Still rude.\nVERDICT: breaks", "revision": "Would you dig?"}]},
        {"id": "good", "initial": "Dig.", "rounds": [
            {"critique": "Rude.\nVERDICT: breaks", "revision": "Please dig."},
            {"critique": "Fine.\nVERDICT: keeps"}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("check", CASES)
def test_a_fault_and_what_nearly_has_it(check: str, tmp_path: Path) -> None:
    """Each check lists the one and not the other."""
    listed = found_in(write(tmp_path / "c.jsonl", *CASES[check]))
    assert {id.split("#")[0] for id in listed[check]} == {"bad"}


@pytest.mark.parametrize(
    "text",
    ["Revision: Dig.", "**Revised response:**\nDig.", "Assistant: Dig.", "Here's the improved answer:\nDig.",
     "Certainly! Here is my rewritten reply: dig."],
)  # fmt: skip
def test_announcements(text: str) -> None:
    """How models announce a revision."""
    assert leaks.announcement(text)


@pytest.mark.parametrize(
    "text", ["Answer the door first.", "Here is the plan:\n1. Dig.", "Response times vary."]
)
def test_what_is_no_announcement(text: str) -> None:
    """Words that also begin answers."""
    assert not leaks.announcement(text)


@given(st.text(max_size=60))
def test_what_the_pipeline_strips_is_a_leak(tail: str) -> None:
    """One definition: what `parse_revision` takes away, the audit reports, and nothing certain is left after it."""
    text = f"Sure, here is the revised reply:\n{tail}x"
    assert leaked_prefix(text) and leaks.announcement(text)
    assert parse_revision(text) == f"{tail}x".strip()


FORMATS: dict[str, dict[str, Any]] = {
    "anthropic": {
        "rl_prompt": "\n\nHuman: Tulips?\n\nAssistant:", "initial_response": [{"sample": " Dig."}],
        "cst": [{"cst_key": "k", "cst_value": {"edit_request": "Revise."}, "critique": {"sample": " Rude."},
                 "revision": {"sample": " Please dig."}}],
    },
    "hugging face": {"init_prompt": "Tulips?", "init_response": " Dig.", "critic_prompt": "Critique it.",
                     "critic_response": " Rude.", "revision_prompt": "Revise it.", "revision_response": " Please dig."},
    "messages": {"messages": [{"role": "user", "content": "Tulips?"}], "response": " Dig.", "critique": " Rude.",
                 "revised_response": [{"role": "assistant", "content": " Please dig."}]},
}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_formats_of_others(format: str) -> None:
    """The same chain, as three projects write it."""
    found = chain_of(FORMATS[format], "7")
    assert found is not None and "Tulips?" in found.prompt
    assert (found.initial, found.final) == (" Dig.", " Please dig.")
    assert [(step.id, step.critique, step.violated) for step in found.steps] == [("7", " Rude.", None)]


KEYS = st.sampled_from(["sample", "critique", "revision", "reply", "rounds", "initial", "cst"]) | st.text()
CELLS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
)


@given(CELLS)
def test_any_row_is_a_chain_or_none(value: Any) -> None:
    """Rows of any shape are passed over, never an error."""
    row = (
        value
        if isinstance(value, dict)
        else {"initial": value, "revision": value, "critique": value, "rounds": value}
    )
    found = chain_of(row, "1")
    assert found is None or found.steps


@given(st.text(), st.text(), st.text())
def test_hostile_text_in_a_chain(initial: str, critique: str, revision: str) -> None:
    """No text makes a check fail, and no control character comes out of a quote."""
    leaks.announcement(revision), leaks.critique_run(revision, critique, initial)
    at = leaks.marker(revision, initial) or leaks.meta_talk(revision, initial) or 0
    assert quote(revision, at).isprintable()


def test_rows_that_are_no_chains(tmp_path: Path) -> None:
    """They are counted; a file of nothing else is refused with its columns."""
    path = write(tmp_path / "c.jsonl", CASES["unchanged"][0], {"text": "x"})
    assert json.loads(audit(path, "--json").stdout)["unusable"] == 1
    with pytest.raises(ConfigError, match="columns are text"):
        audit(write(tmp_path / "n.jsonl", {"text": "x"}))


def test_conditions_and_the_file_of_findings(tmp_path: Path) -> None:
    """Exit 1 where one holds; every finding lands in the file, clipped and plain."""
    path, out = write(tmp_path / "c.jsonl", *CASES["unchanged"]), tmp_path / "found.jsonl"
    done = audit(path, "--fail-on", "unchanged>0.4, prefix_leak>0", "--out", out)
    assert (done.exit_code, done.stderr) == (1, "failed   unchanged 0.5, must not be > 0.4\n")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {"id": "bad", "check": "unchanged"}.items() <= rows[0].items()
    assert audit(path, "--fail-on", "regressed>0.1").exit_code == 1, "what was not measured holds nothing"


def _run(root: Path, p: float, final: str) -> Path:
    """A run with one revised reply that was judged."""
    prompt = Prompt(id="p", messages=(Message(role="user", content="Tulips?"),), source="s")
    reply = Reply(id="p/r0", prompt=prompt, sample=0, text="Dig.", finish_reason="stop", model="m", calls=())
    done = RevisionRound(round=0, principle="k", principle_digest="", critique="Rude.", violated=True, revision=final,
                         calls=())  # fmt: skip
    revision = Revision(id="p/r0/v", reply=reply, rounds=(done,), final=final)
    a, b = (
        Candidate(id="p/r0", kind="reply", text="Dig."),
        Candidate(id="p/r0/v", kind="revision", text=final),
    )
    judgment = Judgment(
        id="p/r0~p/r0/v", prompt=prompt, a=a, b=b, verdicts=(), p=p, p_raw=p, state="labelled"
    )
    _publish(root, "generate", reply)
    _publish(root, "revise", revision)
    _publish(root, "judge", judgment)
    write_json(root / "config.json", {})
    write_json(root / "constitution.json", {})
    return root


def _publish(root: Path, stage: str, row: Row) -> None:
    paths = shard_paths(root, stage, 0)
    rows, dropped = write_rows(paths.rows, [row]), write_rows(paths.drops, [])
    write_manifest(
        paths.manifest,
        ShardReport(stage=stage, shard=0, inputs_digest="", rows_in=1, rows_out=1, drops={}, calls_made=0,
                    calls_replayed=0, failed_calls={}, prompt_tokens=0, completion_tokens=0, cached_tokens=0, cost=None,
                    cost_made=None, corrupt_lines=0, seconds=0, skipped=False, rows=rows, dropped=dropped),
    )  # fmt: skip


def test_a_run(tmp_path: Path) -> None:
    """The judge of a run says which revisions are worse; only labels count."""
    assert found_in(_run(tmp_path / "worse", 0.9, "Dig now.")) == {"regressed": ["p/r0/v"]}
    assert found_in(_run(tmp_path / "better", 0.1, "Please dig.")) == {}
    refused = CliRunner().invoke(
        app, ["audit", "refusals", str(_run(tmp_path / "no", 0.1, "I can't help with that.")), "--json"]
    )
    assert json.loads(refused.stdout)["checks"]["full"]["listed"][0]["id"] == "p/r0/v"


@pytest.mark.skipif(not SHARED.is_file(), reason="the shared data are not here")
def test_published_chains() -> None:
    """Anthropic's samples: of 52 revisions one is unchanged, one nearly, and one ends in a transcript's ruler."""
    found = found_in(SHARED)
    assert (found["unchanged"], found["near_unchanged"], found["marker_leak"]) == (["9#3"], ["13#3"], ["1#2"])
