"""Preference datasets of other formats as labelled pairs: the columns tell the format, and nothing is guessed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from cai.config_file import load_config
from cai.errors import ConfigError
from cai.judges.labelled import read_pairs
from cai.judges.published_pairs import pair_of
from cai.judges.qualification import labelled_pairs
from cai.rows import LabelledPair
from cai.sources.conversation import Unusable, conversation
from tests.small_cli import ROOT

HH = ROOT.parent / "shared/data/prompts/hh_harmless_base_test.jsonl.gz"
ASKED = [{"role": "user", "content": "Q"}]
BETTER, WORSE = {"role": "assistant", "content": "A"}, {"role": "assistant", "content": "B"}
SHAPES: dict[str, dict[str, Any]] = {
    "trl": {"prompt": ASKED, "chosen": [BETTER], "rejected": [WORSE]},
    "trl, plain": {"prompt": "Q", "chosen": "A", "rejected": "B"},
    "implicit prompt": {"chosen": [*ASKED, BETTER], "rejected": [*ASKED, WORSE]},
    "ultrafeedback": {
        "prompt": "Q", "messages": [*ASKED, BETTER], "chosen": [*ASKED, BETTER], "rejected": [*ASKED, WORSE],
        "score_chosen": 8.0,
    },
    "axolotl": {"messages": ASKED, "chosen": BETTER, "rejected": WORSE},
    "llama-factory": {
        "conversations": [{"from": "human", "value": "Q"}],
        "chosen": {"from": "gpt", "value": "A"},
        "rejected": {"from": "gpt", "value": "B"},
    },
    "alpaca": {"instruction": "Q", "input": "", "chosen": "A", "rejected": "B"},
    "openai": {"input": {"messages": ASKED}, "preferred_output": [BETTER], "non_preferred_output": [WORSE]},
    "hh": {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_published_shape_is_the_same_pair(tmp_path: Path, shape: str) -> None:
    """In a file of ten, as `cai judge qualify` reads it: both sides come up, and gold names the better reply."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"id": n, **SHAPES[shape]}) + "\n" for n in range(10)))
    config = load_config(ROOT / "flows/configs/embedded.yaml", [f"judge.labelled={json.dumps(str(path))}"])
    pairs = labelled_pairs(config)
    assert [pair.id for pair in pairs] == [str(n) for n in range(10)]
    assert {pair.gold for pair in pairs} == {"A", "B"}
    for pair in pairs:
        assert [(turn.role, turn.content) for turn in pair.messages] == [("user", "Q")]
        assert (pair.a, pair.b) == (("A", "B") if pair.gold == "A" else ("B", "A"))


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ({"prompt": "Q", "question": "R", "chosen": "A", "rejected": "B"}, "bad_messages",
         "'prompt' and 'question' could all be the prompt; leave one of them"),
        ({"chosen": "A", "rejected": "B"}, "no_user_turn", "there is text without a turn"),
        ({"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: R\n\nAssistant: B"}, "bad_messages",
         "chosen and rejected do not begin with the same user turn"),
        ({"prompt": "Q", "completion": "A", "label": True}, "bad_messages",
         "no two replies; a pair has chosen and rejected or preferred_output and non_preferred_output"),
        ({"prompt": [*ASKED, BETTER], "chosen": "A", "rejected": "B"}, "no_user_turn",
         "'prompt' does not end with a user turn"),
        ({"prompt": "Q", "chosen": ["A"], "rejected": ["B"]}, "bad_messages", "message 1: role None"),
        ({"prompt": "Q", "chosen": 1, "rejected": 2}, "bad_messages", "neither text nor messages"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_told_and_not_guessed(row: dict[str, Any], reason: str, detail: str) -> None:
    """Two columns that could be the prompt are named; replies to different prompts are no pair."""
    with pytest.raises(Unusable) as error:
        pair_of(row)
    assert error.value.reason == reason and detail in error.value.detail


def broken(folder: Path) -> list[tuple[Path, str]]:
    def file(name: str, *rows: Any) -> Path:
        path = folder / name
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return path

    good = SHAPES["trl"]
    several = good | {"chosen": [BETTER, *ASKED, BETTER]}
    return [
        (
            file("a.jsonl", good, {"prompt": "Q"}),
            "a.jsonl:2: no two replies; a pair has chosen and rejected or ",
        ),
        (file("b.jsonl", good, "{"), "b.jsonl:2: line 2: "),
        (
            file("c.jsonl", several),
            "c.jsonl:1: the better reply has 3 turns; a judge compares single replies",
        ),
        (file("d.jsonl", good | {"id": 1}, good | {"id": "1"}), "d.jsonl:2: id '1' is already in line 1"),
        (file("e.jsonl", {"prompt": "Q", "chosen": "A"}), "e.jsonl:1: the field 'id' is missing"),
        (file("f.csv", "prompt,chosen,rejected", 'Q,A,"B'), "f.csv: after line 1: unexpected end of data"),
    ]


def test_a_file_that_is_not_whole_is_refused_with_the_line(tmp_path: Path) -> None:
    """A judge is measured on all pairs of a file or on none."""
    for path, expected in broken(tmp_path):
        with pytest.raises(ConfigError) as error:
            list(read_pairs(path, LabelledPair))
        assert expected in str(error.value) and "\n" not in str(error.value), str(error.value)
        assert not str(error.value).startswith("prompts:")


@pytest.mark.skipif(not HH.is_file(), reason="the published prompt sets are not on this machine")
def test_hh_rlhf_is_read_as_it_is_published() -> None:
    """Gzipped transcripts without ids: 2,312 pairs of single replies, in the contexts that prompts are read in."""
    found = [pair for _, pair in read_pairs(HH, LabelledPair)]
    assert len(found) == 2312 and {pair.gold for pair in found} == {"A", "B"}
    with gzip.open(HH, "rt", encoding="utf-8") as file:
        rows = [json.loads(text) for text in file]
    for pair, row in zip(found, rows, strict=True):
        assert pair.messages == conversation(row, "chosen", transcript=True)
        better = pair.a if pair.gold == "A" else pair.b
        assert (
            row["chosen"].rstrip().endswith(better.rpartition("\n\n")[2])
        )  # what one speaker says twice is merged
