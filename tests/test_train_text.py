"""Hostile text in training rows: it trains as the words that it is, and no row of it stops a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cai.config import Kind
from cai.errors import ConfigError
from cai.train.data import demonstrations, pairs, unpaired, writable
from tests.faults.hostile_text import HOSTILE, LONG, TURNS
from tests.test_train_preflight import ordinary, pair, plan_of, trained, turn

pytestmark = pytest.mark.slow
BOMB = b"[" * 100_000
START, END = 1, 2  # of a turn, in the tiny model's tokenizer


def hostile_rows(kind: Kind) -> list[dict[str, Any]]:
    """A row for each text, with it in the prompt, in a system turn and in the replies."""
    rows = []
    for text in HOSTILE.values():
        asked = [*turn("system", text), *turn("user", f"{text} Why?")]
        said = {"chosen": turn("assistant", text), "rejected": turn("assistant", f"No. {text}")}
        rows.append({"prompt": asked, **(said if kind != "sft" else {"completion": said["chosen"]})})
    return rows


def rows_of(kind: Kind, base: Path, folder: Path, rows: list[dict[str, Any]], *, broken_up: bool) -> Any:
    from transformers import AutoTokenizer

    from cai.models.turns import NOTHING, tokens_of

    plan = plan_of(kind, base, folder, rows)
    tokenizer = AutoTokenizer.from_pretrained(base)
    turns = tokens_of(tokenizer, tokenizer.chat_template) if broken_up else NOTHING
    read = {"sft": demonstrations, "dpo": pairs, "kto": unpaired}[kind]
    return plan, tokenizer, writable(read(plan, turns))


def batches(kind: Kind, base: Path, folder: Path, *, broken_up: bool) -> Any:
    """All batches as TRL's trainer gets them, and the ids of their tokens."""
    from trl import DPOTrainer, KTOTrainer, SFTTrainer

    from cai.train.options import trl_config

    plan, tokenizer, (rows, defused, lost) = rows_of(
        kind, base, folder, hostile_rows(kind), broken_up=broken_up
    )
    assert lost == 0 and (defused >= 2 if broken_up else defused == 0)
    more = {"max_length": None, "per_device_train_batch_size": 2, "precompute_ref_log_probs": False}
    args = {name: value for name, value in (plan.args | more).items() if kind != "sft" or name[:3] != "pre"}
    trainer = {"sft": SFTTrainer, "dpo": DPOTrainer, "kto": KTOTrainer}[kind]
    built = trainer(
        model=plan.model, args=trl_config(kind, args, str(plan.work)), train_dataset=rows, processing_class=tokenizer
    )  # fmt: skip
    return list(built.get_train_dataloader())


@pytest.mark.parametrize("kind", ["sft", "dpo", "kto"])
def test_no_row_opens_a_turn(kind: Kind, base: Path, tmp_path: Path) -> None:
    """Each row has the template's three turns, and what is learned has its own end and no other turn token."""
    for batch in batches(kind, base, tmp_path, broken_up=True):
        ids = batch["input_ids"]
        learned = (batch["labels"] != -100) if kind == "sft" else batch["completion_mask"].bool()
        for row, mask in zip(ids, learned, strict=True):
            turns = row.tolist()
            assert (turns.count(START), turns.count(END)) == (3, 3)
            reply = row[mask].tolist()
            assert (reply.count(START), reply.count(END)) == (0, 1)
    found = [row.tolist() for b in batches(kind, base, tmp_path, broken_up=False) for row in b["input_ids"]]
    assert any(row.count(START) > 3 for row in found), "the fault is there: TRL takes them for turns"


def test_a_training_goes_through_and_says_what_was_done(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """NUL, controls, joiners and the rest train; half a surrogate pair is left out and counted; the file stays."""
    rows = [pair(n, text, f"No. {text}") for n, text in enumerate(HOSTILE.values())]
    rows += [pair(90, "half \ud800 a pair", "no"), pair(91, "yes", "no \udfff")]
    plan = plan_of("dpo", base, tmp_path, rows, args={"max_length": None, "max_steps": 2})
    before = Path(plan.data).read_bytes()
    report = trained(plan)
    assert report.found is not None and report.found.rows is not None
    assert report.found.rows.rows == len(HOSTILE)
    assert report.found.texts.unwritable == 2
    assert len(TURNS) > report.found.texts.defused >= 2
    told = capsys.readouterr().out
    assert "turn tokens stood in the texts of" in told and "left out: 2 rows with half a surrogate" in told
    assert Path(plan.data).read_bytes() == before


def test_a_megabyte_is_counted_not_learned(base: Path, tmp_path: Path) -> None:
    """One row of a hundred may be cut, and its tokens are counted; more are refused with the value to set."""
    rows = [*ordinary(99), pair(99, LONG[:250_000], "no")]
    report = trained(plan_of("dpo", base, tmp_path, rows, args={"max_length": 120, "max_steps": 1}))
    assert report.found is not None and report.found.rows is not None
    assert report.found.rows.cut == 1 and report.found.rows.longest > 50_000
    rows = [*ordinary(9), pair(9, LONG, "no")]
    with pytest.raises(ConfigError, match=r"1 of 10 rows \(10\.0%\) are longer than max_length 120"):
        trained(plan_of("dpo", base, tmp_path, rows, args={"max_length": 120, "max_steps": 1}))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (BOMB, r"jsonl:1: not a JSON object"),
        (b'{"prompt": "\xff"}', r"jsonl:1: not a JSON object"),
        (b"[1]", "row 1: list indices"),
        (b'{"prompt": [], "chosen": [], "rejected": []}', "row 1: there is no turn under prompt"),
        (b'{"prompt": [{"role": "user", "content": null}]}', "row 1: lacks 'chosen'"),
        (b'{"prompt": [{"role": 1, "content": "x"}], "chosen": [], "rejected": []}', "row 1: 1 is no role"),
        (
            b'{"prompt": [{"role": "user", "content": null}], "chosen": [], "rejected": []}',
            "None is no content",
        ),
    ],
    ids=["bomb", "bytes", "list", "no turn", "no chosen", "no role", "no content"],
)
def test_rows_that_are_none_are_named(line: bytes, problem: str, base: Path, tmp_path: Path) -> None:
    """Bytes that are no text, bombs of brackets, turns that are none: one line that says where."""
    plan = plan_of("dpo", base, tmp_path, ordinary(1))
    Path(plan.data).write_bytes(line + b"\n")
    with pytest.raises(ConfigError, match=problem) as caught:
        trained(plan)
    assert len(str(caught.value).splitlines()) == 1


def test_nothing_but_halves(base: Path, tmp_path: Path) -> None:
    """A file of which no row can be written is refused, and an exported file keeps what it has."""
    rows = [json.loads(json.dumps(pair(1, "\ud800", "no")))]
    with pytest.raises(ConfigError, match="every row holds half a surrogate pair"):
        trained(plan_of("dpo", base, tmp_path, rows))
