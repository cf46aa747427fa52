"""Exports in TRL's own trainers: what they make of the rows, token by token, on a tiny random model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cai.export.folder import export_folder
from cai.export.formats import FormatName
from cai.export.record import Choice
from tests.test_export import SYSTEM, make_run, pair

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pairs, one of them with a system turn and a history."""
    pairs = [pair(f"p{n}", ("user", f"Question {n}"), chosen=f"Yes {n}.") for n in range(11)]
    return make_run(tmp_path_factory.mktemp("trl") / "run", [*pairs, pair("s", *SYSTEM)])


@pytest.fixture
def prepared(run: Path, base: Path, tmp_path: Path) -> Callable[[FormatName, str], tuple[list[Any], Any]]:
    """The rows of an export as a trainer of TRL has prepared them, and its tokenizer."""
    import datasets
    import trl

    def prepare(format: FormatName, name: str) -> tuple[list[Any], Any]:
        folder, _ = export_folder(run, Choice(format, eval_share=0.3), tmp_path / format)
        data = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
        arguments = getattr(trl, f"{name}Config")(
            output_dir=str(tmp_path / "out"),
            report_to=[],
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=2,
        )
        trainer = getattr(trl, f"{name}Trainer")(
            str(base), args=arguments, train_dataset=data["train"], eval_dataset=data["eval"]
        )
        next(iter(trainer.get_train_dataloader()))
        return [*trainer.train_dataset, *trainer.eval_dataset], trainer.processing_class

    return prepare


TURN = "<|im_start|>{}\n{}<|im_end|>\n"
ASKED = "".join(TURN.format(role, text) for role, text in SYSTEM)


def test_dpo_trains_on_the_pairs_of_trl(prepared: Any) -> None:
    """Prompt with all its turns, chosen and rejected, in the model's chat template."""
    rows, tokenizer = prepared("trl", "DPO")
    (row,) = (row for row in rows if row["id"] == "s")
    assert len(rows) == 12
    assert tokenizer.decode(row["prompt_ids"]) == f"{ASKED}<|im_start|>assistant\n"
    assert tokenizer.decode(row["chosen_ids"]) == "Yes.<|im_end|>\n"
    assert tokenizer.decode(row["rejected_ids"]) == "No.<|im_end|>\n"


def test_reward_trains_on_whole_conversations_with_a_margin(prepared: Any) -> None:
    """Each side is the whole conversation, and the margin reaches the loss."""
    rows, tokenizer = prepared("reward", "Reward")
    (row,) = (row for row in rows if row["id"] == "s")
    assert tokenizer.decode(row["chosen_ids"]).startswith(f"{ASKED}<|im_start|>assistant\nYes.")
    assert tokenizer.decode(row["rejected_ids"]).startswith(f"{ASKED}<|im_start|>assistant\nNo.")
    assert {row["margin"] for row in rows} == {2.2}


def test_sft_trains_on_the_demonstrations(prepared: Any) -> None:
    """Prompt and completion are told apart, so that the loss is on the completion alone."""
    rows, tokenizer = prepared("sft", "SFT")
    assert len(rows) == 40
    row = rows[0]
    number = tokenizer.decode(row["input_ids"]).partition("Question ")[2].partition("<")[0]
    assert tokenizer.decode(row["input_ids"]) == (
        TURN.format("user", f"Question {number}") + TURN.format("assistant", f"Answer {number}")
    )
    learnt = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(learnt) == f"Answer {number}<|im_end|>\n"


def test_kto_trains_on_replies_by_themselves(prepared: Any) -> None:
    """Each reply with its label."""
    rows, tokenizer = prepared("kto", "KTO")
    found = {(tokenizer.decode(row["completion_ids"]), row["label"]) for row in rows if row["id"] == "s"}
    assert found == {("Yes.<|im_end|>\n", True), ("No.<|im_end|>\n", False)} and len(rows) == 24
