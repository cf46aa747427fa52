"""Prompt sources: every format and shape, ids that stay, a reason for every row that is dropped."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.config import SourceConfig
from cai.config_file import load_config
from cai.errors import ConfigError
from cai.publish import write_prompts
from cai.rows import Drop, Message, Prompt
from cai.sources import read_prompts, shard_of
from cai.sources.conversation import Unusable, conversation, parse_transcript
from cai.store import read_rows, write_rows

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data" / "prompts"
real_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the published prompt sets are not on this machine"
)


def read(*sources: Path | SourceConfig, **options: Any) -> tuple[list[Prompt], list[Drop]]:
    configs = [s if isinstance(s, SourceConfig) else SourceConfig(path=str(s), **options) for s in sources]
    rows = list(read_prompts(configs))
    return [r for r in rows if isinstance(r, Prompt)], [r for r in rows if isinstance(r, Drop)]


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def turns(*pairs: tuple[str, str]) -> tuple[Message, ...]:
    return tuple(Message.model_validate({"role": role, "content": content}) for role, content in pairs)


def user(text: str) -> tuple[Message, ...]:
    return turns(("user", text))


CHAT = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
REPLIED = [*CHAT, {"role": "assistant", "content": "A"}]
SHARED_GPT = [{"from": who, "value": said} for who, said in (("system", "S"), ("human", "U"), ("gpt", "A"))]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": CHAT}, turns(("system", "S"), ("user", "U"))),
        ({"messages": REPLIED}, turns(("system", "S"), ("user", "U"))),
        ({"prompt": CHAT, "messages": None}, turns(("system", "S"), ("user", "U"))),
        ({"prompt": " Keep  blanks\n"}, user(" Keep  blanks\n")),
        ({"text": "last", "question": "first", "id": "x"}, user("first")),
        ({"instruction": "Sum up.", "input": "The text."}, user("Sum up.\n\nThe text.")),
        ({"instruction": "Sum up.", "input": ""}, user("Sum up.")),
        ({"instruction": "Sum up.", "instances": [{"input": "I1", "output": "O"}]}, user("Sum up.\n\nI1")),
        ({"instruction": "Sum up.", "instances": [{"input": "", "output": "O"}]}, user("Sum up.")),
        ({"turns": ["First?", "Then?"]}, user("First?")),
        ({"turns": REPLIED}, turns(("system", "S"), ("user", "U"))),
        ({"conversations": SHARED_GPT}, turns(("system", "S"), ("user", "U"))),
        (
            {"input": {"messages": CHAT}, "preferred_output": REPLIED[2:]},
            turns(("system", "S"), ("user", "U")),
        ),
        (
            {"chosen": REPLIED, "rejected": [*CHAT, REPLIED[2] | {"content": "B"}]},
            turns(("system", "S"), ("user", "U")),
        ),
        ({"chosen": "\n\nHuman: U\n\nAssistant: A", "rejected": "\n\nHuman: U\n\nAssistant: B"}, user("U")),
        ({"prompt": "U", "turns_before": json.dumps(CHAT[:1])}, turns(("system", "S"), ("user", "U"))),
        ({"prompt": "U", "turns_before": ""}, user("U")),
        (
            {"instruction": "Sum up.", "input": "The text.", "chosen": "A", "rejected": "B"},
            user("Sum up.\n\nThe text."),
        ),
    ],
)
def test_a_prompt_is_found_in_every_published_shape(
    row: dict[str, Any], expected: tuple[Message, ...]
) -> None:
    """The first column that is there counts; what follows the last user turn is cut."""
    assert conversation(row, None) == expected


@pytest.mark.parametrize(
    ("row", "field", "transcript", "reason"),
    [
        ({"prompt": None}, None, False, "empty_prompt"),
        ({"other": "x"}, "prompt", False, "empty_prompt"),
        ({"prompt": " \n"}, None, False, "empty_prompt"),
        ({"messages": []}, None, False, "empty_prompt"),
        ({"messages": [{"role": "user", "content": ""}]}, None, False, "empty_prompt"),
        ({"messages": REPLIED[:1]}, None, False, "no_user_turn"),
        ({"messages": [*CHAT, {"role": "tool", "content": "x"}]}, None, False, "bad_messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, None, False, "bad_messages"),
        ({"messages": ["a", {"role": "user"}]}, "other", False, "empty_prompt"),
        ({"messages": [7]}, None, False, "bad_messages"),
        ({"prompt": 7}, None, False, "bad_messages"),
        ({"chosen": "\n\nAssistant: Hello."}, "chosen", True, "no_user_turn"),
        ({"chosen": "Just text."}, "chosen", True, "no_user_turn"),
        ({"chosen": " \n"}, "chosen", True, "empty_prompt"),
        ({"chosen": None}, "chosen", True, "empty_prompt"),
        ({"chosen": "Preface.\n\nHuman: Hi"}, "chosen", True, "bad_messages"),
        ({"chosen": "\n\nHuman:  \n\nAssistant: Hello."}, "chosen", True, "empty_prompt"),
        ({"chosen": CHAT}, "chosen", True, "bad_messages"),
        ({"chosen": "A", "rejected": "B"}, None, False, "no_user_turn"),
        (
            {"chosen": CHAT, "rejected": [CHAT[0], {"role": "user", "content": "V"}]},
            None,
            False,
            "bad_messages",
        ),
        ({"prompt": "U", "turns_before": "[{"}, None, False, "bad_messages"),
        ({"prompt": "U", "turns_before": "7"}, None, False, "bad_messages"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, None, False, "bad_messages"),
        ({"input": {"messages": "U"}}, None, False, "bad_messages"),
    ],
)
def test_rows_without_a_question_are_unusable(
    row: dict[str, Any], field: str | None, transcript: bool, reason: str
) -> None:
    """Each kind of emptiness has its own reason; nothing is made up in its place."""
    with pytest.raises(Unusable) as error:
        conversation(row, field, transcript)
    assert error.value.reason == reason and error.value.detail


MARKERS = {"user": "Human", "assistant": "Assistant"}
line = st.text(st.characters(exclude_categories=["Cs"]), max_size=30).map(
    lambda text: text.replace("\n", " ")
)
body = (
    st.lists(line, min_size=1, max_size=3)
    .map("\n".join)
    .map(lambda text: text.strip(" \t\r\n"))
    .filter(lambda text: text and "\n\n" not in text and "\n\r\n" not in text)
)


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), body), min_size=1, max_size=6))
def test_transcripts_round_trip(spoken: list[tuple[str, str]]) -> None:
    """Writing turns down and reading them gives them back, neighbours of one role as one turn."""
    text = "".join(f"\n\n{MARKERS[role]}: {content}" for role, content in spoken)
    merged: list[tuple[str, str]] = []
    for role, content in spoken:
        if merged and merged[-1][0] == role:
            merged[-1] = (role, f"{merged[-1][1]}\n\n{content}")
        else:
            merged.append((role, content))
    assert parse_transcript(text) == turns(*merged)


def test_markers_inside_a_paragraph_are_text() -> None:
    """Only a paragraph that starts with the marker is a turn; colons and quoted markers stay."""
    first = "Ratio 3: 2?\nHuman: is a word. See Assistant: x\n\nNew paragraph"
    assert parse_transcript(f"\n\nHuman: {first}\n\nAssistant: Yes: 1.5\n\nHuman: Ok") == turns(
        ("user", first),
        ("assistant", "Yes: 1.5"),
        ("user", "Ok"),
    )


def test_a_transcript_ends_in_its_last_human_turn() -> None:
    """The last reply is cut, what was said before it is the context."""
    text = "\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant: D\n\nAssistant:"
    assert conversation({"x": text}, "x", True) == turns(("user", "A"), ("assistant", "B"), ("user", "C"))
    assert conversation({"x": text.replace("\n\n", "\r\n\r\n").lstrip()}, "x", True)[-1].content == "C"


PLAIN: list[dict[str, Any]] = [
    {"id": 1, "prompt": 'One, "two"\nthree', "tags": ["x"]},
    {"id": 2, "prompt": "Ünïcode 🦊", "tags": ["y", "x"]},
]


def every_format(folder: Path) -> dict[str, Path]:
    import pyarrow
    import pyarrow.parquet

    files = {
        name: folder / name
        for name in ("a.jsonl", "a.jsonl.gz", "a.json.gz", "a.csv", "a.csv.gz", "a.parquet")
    }
    lines = "".join(json.dumps(row) + "\n" for row in PLAIN)
    files["a.jsonl"].write_bytes(b"\xef\xbb\xbf" + lines.encode() + b"\n")
    for name in ("a.jsonl.gz", "a.json.gz"):
        files[name].write_bytes(gzip.compress(lines.encode()))
    with files["a.csv"].open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["id", "prompt", "tags"])
        writer.writeheader()
        writer.writerows({**row, "tags": ", ".join(row["tags"])} for row in PLAIN)
    files["a.csv.gz"].write_bytes(gzip.compress(files["a.csv"].read_bytes()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PLAIN), files["a.parquet"])
    return files


def test_all_formats_give_the_same_prompts(tmp_path: Path) -> None:
    """JSONL, CSV and Parquet, packed or not: same ids, texts and tags; tags of the source come first."""
    expected = [
        Prompt(id="1", messages=user('One, "two"\nthree'), tags=("s", "x"), source="a"),
        Prompt(id="2", messages=user("Ünïcode 🦊"), tags=("s", "y", "x"), source="a"),
    ]
    for path in every_format(tmp_path).values():
        assert read(path, tags=("s",)) == (expected, []), path.name


def test_a_text_file_is_one_prompt_a_line(tmp_path: Path) -> None:
    """Only a newline ends a line, blank ones do not count, and a broken one costs itself only."""
    path = tmp_path / "p.txt"
    path.write_bytes("One\r\n\nTwo\u2028still two\x0b\n".encode() + b"\xff\nThree")
    prompts, drops = read(path)
    assert [p.messages[0].content for p in prompts] == ["One", "Two\u2028still two\x0b", "Three"]
    assert [(d.reason, d.detail) for d in drops] == [("bad_text", "line 4: not UTF-8")]


def test_a_hub_dataset_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows come through `datasets`; its errors are one line that names dataset and split."""
    datasets = pytest.importorskip("datasets")
    asked: list[dict[str, Any]] = []

    def load(name: str, **options: Any) -> list[dict[str, Any]]:
        asked.append({"name": name, **options})
        if options["split"] == "none":
            raise ValueError("Bad split: none\nmore")
        return [{"prompt": "Hi", "id": "a"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    prompts, _ = read(SourceConfig(dataset="owner/set", split="test"))
    assert prompts == [Prompt(id="a", messages=user("Hi"), source="set")]
    assert asked == [{"name": "owner/set", "split": "test", "revision": None, "streaming": True}]
    with pytest.raises(ConfigError) as error:
        read(SourceConfig(dataset="owner/set", split="none"))
    fix = "check its name, the split and the network"
    assert str(error.value) == f"prompts: dataset 'owner/set', split 'none': Bad split: none; {fix}"


def test_every_drop_has_its_reason_and_place(tmp_path: Path) -> None:
    """One bad row never stops the others, and each is counted under its own name."""
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"prompt": "Good"}\n{"prompt": "torn\n[1]\n{"prompt": " "}\n'
        '{"messages": [{"role": "system", "content": "x"}]}\n'
        '{"prompt": "Good", "id": "again"}\n{"prompt": 5}\n{"prompt": "Other", "tags": ["no"]}\n'
        f"{'[' * 100_000}\n"
    )
    prompts, drops = read(path, tags=("yes",))
    assert [p.messages[0].content for p in prompts] == ["Good", "Other"]
    assert [(d.id, d.reason) for d in drops] == [
        ("p-2", "bad_json"),
        ("p-3", "bad_json"),
        ("p-4", "empty_prompt"),
        ("p-5", "no_user_turn"),
        ("again", "duplicate"),
        ("p-7", "bad_messages"),
        ("p-9", "bad_json"),
    ]
    assert drops[0].detail.startswith("line 2: ") and drops[3].detail.startswith("p, row 5: ")
    assert {d.stage for d in drops} == {"prompts"}
    prompts, drops = read(path, only_tags=("no", "never"))
    assert [p.messages[0].content for p in prompts] == ["Other"]
    assert Counter(d.reason for d in drops)["tag_filtered"] == 2  # both "Good" rows; neither counts as seen


def test_a_csv_row_with_too_many_cells_is_dropped(tmp_path: Path) -> None:
    """An unquoted comma shifts a row's cells: it is not read as something else. A short row is just empty."""
    path = tmp_path / "p.csv"
    path.write_text('id,prompt\n1,"fine, quoted"\n2,not, quoted\n3\n')
    prompts, drops = read(path)
    assert [p.messages[0].content for p in prompts] == ["fine, quoted"]
    assert [(d.reason, d.detail.partition(":")[0]) for d in drops] == [
        ("bad_csv", "line 3"),
        ("empty_prompt", "p, row 4"),
    ]


HOSTILE = [
    "\ud800 half",
    "\x00\x01\x1b[2J",
    "{principle} {fence}",
    "\u202e\u2066",
    "</s><|im_end|>",
    "A" * 200_000,
]


def test_hostile_text_comes_through_unchanged(tmp_path: Path) -> None:
    """Surrogates, control characters, markers: text is text, also in ids, tags and on disk."""
    path = jsonl(
        tmp_path / "p.jsonl", *({"prompt": text, "id": text[:80], "tags": [text[:80]]} for text in HOSTILE)
    )
    prompts, drops = read(path)
    assert [p.messages[0].content for p in prompts] == HOSTILE and not drops
    assert [p.tags for p in prompts] == [(text[:80].strip(),) for text in HOSTILE]
    write_rows(tmp_path / "out.jsonl", prompts)
    assert list(read_rows(tmp_path / "out.jsonl", Prompt)) == prompts


@given(
    st.lists(
        st.text(st.characters(), min_size=1, max_size=120) | st.integers(),
        min_size=1,
        max_size=8,
        unique_by=str,
    )
)
def test_ids_become_safe_parts_and_stay_distinct(
    tmp_path_factory: pytest.TempPathFactory, own: Sequence[str | int]
) -> None:
    """No id can leave its folder, split a lineage or meet another one."""
    path = tmp_path_factory.getbasetemp() / "ids.jsonl"
    prompts, _ = read(jsonl(path, *({"id": id, "prompt": str(number)} for number, id in enumerate(own))))
    assert len({p.id for p in prompts}) == len(own)
    for prompt in prompts:
        assert 0 < len(prompt.id) <= 96 and not prompt.id.startswith(".")
        assert not set(prompt.id) & set("/~\\ :") and prompt.id.isascii()
        assert not any(unicodedata.category(char) == "Cc" for char in prompt.id)


def test_ids_do_not_depend_on_the_other_rows(tmp_path: Path) -> None:
    """Removing, adding and reordering rows leaves every other id as it was."""
    rows = [{"prompt": f"Question {number}"} for number in range(20)] + [
        {"prompt": "Own", "prompt_id": "q/1"}
    ]
    before = {p.messages: p.id for p in read(jsonl(tmp_path / "a.jsonl", *rows))[0]}
    after = {p.messages: p.id for p in read(jsonl(tmp_path / "a.jsonl", *reversed(rows[3:])))[0]}
    assert len(after) == 18 and after.items() <= before.items()
    assert before[user("Own")] == "q%2F1" and before[user("Question 0")] == "15dc265dbb030d4f078dab97"


def test_one_id_for_two_prompts_is_told_apart(tmp_path: Path) -> None:
    """The first keeps the id, the others get a digest of their text, whatever stands between them."""
    rows = [{"id": "a", "prompt": text} for text in ("one", "two", "three")]
    ids = {p.messages[0].content: p.id for p in read(jsonl(tmp_path / "a.jsonl", *rows))[0]}
    assert ids["one"] == "a" and ids["two"].startswith("a.") and len(set(ids.values())) == 3
    swapped = {
        p.messages[0].content: p.id for p in read(jsonl(tmp_path / "a.jsonl", rows[0], rows[2], rows[1]))[0]
    }
    assert swapped == ids
    taken = {"id": ids["two"], "prompt": "four"}
    assert len({p.id for p in read(jsonl(tmp_path / "a.jsonl", taken, *rows))[0]}) == 4


def test_a_further_source_prefixes_its_ids_and_changes_none(tmp_path: Path) -> None:
    """Equal ids of two files do not meet; an equal conversation is kept once, from the first file."""
    (tmp_path / "b").mkdir()
    one = jsonl(tmp_path / "a.jsonl", {"id": 1, "prompt": "x"}, {"prompt": "no id"})
    two = jsonl(tmp_path / "b" / "a.jsonl", {"id": 1, "prompt": "y"}, {"id": 2, "prompt": "x"})
    prompts, drops = read(one, two)
    assert [(p.id, p.source) for p in prompts[::2]] == [("1", "a"), ("a-2.1", "a-2")]
    assert [(d.id, d.reason) for d in drops] == [("a-2.2", "duplicate")]
    assert prompts[:2] == read(one)[0]
    three = jsonl(tmp_path / "c.jsonl", {"id": 1, "prompt": "z"}, {"id": "a-2.1", "prompt": "w"})
    assert read(one, two, three)[0][:3] == prompts
    assert [d.reason for d in read(one, one)[1]] == ["duplicate", "duplicate"]


def test_limit_counts_kept_prompts_and_reads_no_further(tmp_path: Path) -> None:
    """Drops do not use up the limit; what comes after it is not even looked at."""
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": ""}\n{"prompt": "a"}\n{"prompt": "a"}\n{"prompt": "b"}\nnot json\n')
    prompts, drops = read(path, limit=2)
    assert [p.messages[0].content for p in prompts] == ["a", "b"]
    assert [d.reason for d in drops] == ["empty_prompt", "duplicate"]


def test_reading_is_lazy_but_files_are_checked_first(tmp_path: Path) -> None:
    """A missing second file is told before the first row; rows come one at a time."""
    path = jsonl(tmp_path / "p.jsonl", {"prompt": "a"})
    with path.open("a") as file:
        file.writelines(f'{{"prompt": "{number}"}}\n' for number in range(50_000))
    rows = read_prompts([SourceConfig(path=str(path))])
    assert isinstance(next(rows), Prompt)
    path.write_text("")  # what is not buffered yet is gone: far fewer rows than were there
    assert sum(1 for _ in rows) < 10_000
    with pytest.raises(ConfigError, match="there is no file"):
        read_prompts([SourceConfig(path=str(path)), SourceConfig(path=str(tmp_path / "none.jsonl"))])


def test_a_licence_is_told_and_reads_nothing_again(tmp_path: Path) -> None:
    """It stands in the config for the cards; the prompts that were published are still those."""
    path = jsonl(tmp_path / "p.jsonl", {"prompt": "a"})
    set_ = [f"outputs={tmp_path}", "evaluate=null"]
    one, other = (
        load_config(ROOT / "flows/configs/embedded.yaml", [*set_, f"prompts=[{{path: {path}{more}}}]"])
        for more in ("", ", licence: mit")
    )
    assert not any(report.skipped for report in write_prompts(one))
    assert all(report.skipped for report in write_prompts(other))
    assert other.prompts[0].licence == "mit"


def broken_inputs(folder: Path) -> list[tuple[SourceConfig, str]]:
    rows = jsonl(folder / "rows.jsonl", {"promt": "x", "other": "y"})

    def source(name: str, content: bytes, **options: Any) -> SourceConfig:
        (folder / name).write_bytes(content)
        return SourceConfig(path=str(folder / name), **options)

    packed = gzip.compress(b'{"prompt": "x"}\n' * 9000)
    return [
        (SourceConfig(path=str(folder / "row.jsonl")),
         "there is no file {folder}/row.jsonl; did you mean 'rows.jsonl'?"),
        (SourceConfig(path=str(folder)), f"{folder} is a folder; name the file in it, or give it as 'dataset'"),
        (source("a.xml", b"x"), "a.xml does not tell its format; set 'format' to jsonl, csv, parquet or text"),
        (source("a.json", b"[\n {}]"), "a.json is one JSON array; write one object a line (jq -c '.[]')"),
        (source("a.parquet", b"x" * 99), "a.parquet is not a readable Parquet file ("),
        (source("cut.jsonl.gz", packed[:-20]), "cut.jsonl.gz is not a whole gzip file ("),
        (source("a.csv", b'id,prompt\n1,"open\n2,x\n'), "a.csv: after line 1: unexpected end of data; mend the quotes"),
        (source("b.csv", b"prompt\ncaf\xe9\n"), "b.csv is not UTF-8 (invalid continuation byte); save it as UTF-8"),
        (SourceConfig(path=str(rows)), "rows.jsonl: no column is a prompt; set 'field' to one of: promt, other"),
        (SourceConfig(path=str(rows), field="prompt"),
         "rows.jsonl: there is no column 'prompt'; did you mean 'promt'? columns: promt, other"),
        (SourceConfig(path=str(rows), transcript=True),
         "rows.jsonl: 'transcript' needs 'field', the column with the text; columns: promt, other"),
        (SourceConfig(path=str(rows), field="other", only_tags=("t",)),
         "no usable prompt in {folder}/rows.jsonl: dropped as tag_filtered 1; check field, format or only_tags"),
        (source("empty.jsonl", b"\n"), "no usable prompt in {folder}/empty.jsonl: it holds no rows; give another file"),
        (source("bad.jsonl", b"{\n}\n"),
         "no usable prompt in {folder}/bad.jsonl: dropped as bad_json 2; check field, format"),
    ]  # fmt: skip


def test_unusable_inputs_are_one_line_with_the_fix(tmp_path: Path) -> None:
    """Every mistake in a source's config or file is named before anything is paid for."""
    for source, expected in broken_inputs(tmp_path):
        with pytest.raises(ConfigError) as error:
            read(source)
        message = str(error.value)
        assert expected.replace("{folder}", str(tmp_path)) in message, message
        assert message.startswith("prompts: ") and "\n" not in message


def test_shards_depend_on_the_id_alone_and_fill_evenly() -> None:
    """Pinned values, because another hash would move every prompt of every run; shares within 5 sigma."""
    assert [shard_of(id, 7) for id in ("a", "b", "p/r0", "\ud800")] == [0, 2, 6, 1]
    assert shard_of("anything", 1) == 0
    counts = Counter(shard_of(f"id-{number}", 4) for number in range(4000))
    assert set(counts) == {0, 1, 2, 3} and all(abs(count - 1000) < 140 for count in counts.values())


@real_data
def test_hh_rlhf_keeps_all_of_its_turns() -> None:
    """2,312 rows, 1,650 of them with several human turns; compared with an independent reading of the file."""
    path = SHARED / "hh_harmless_base_test.jsonl.gz"
    prompts, drops = read(path, field="chosen", transcript=True)
    assert len(prompts) + len(drops) == 2312 and {d.reason for d in drops} == {"duplicate"}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        texts = [json.loads(text)["chosen"] for text in file]
    assert sum(text.count("\n\nHuman:") > 1 for text in texts) == 1650
    by_turns = Counter(len(conversation({"x": text}, "x", True)) for text in texts)
    assert sum(count for length, count in by_turns.items() if length > 1) == 1650
    for text in texts:
        found = conversation({"x": text}, "x", True)
        assert found[-1].role == "user" and text.startswith("\n\nHuman:")
        assert [turn.role for turn in found] == [("user", "assistant")[i % 2] for i in range(len(found))]
        spoken = text.replace("\n\nAssistant:", "").split("\n\nHuman:")
        assert "".join("".join(turn.content for turn in found).split()) in "".join("".join(spoken).split())
        last = text[text.rindex("\n\nHuman:") + len("\n\nHuman:") :].split("\n\nAssistant:")[0].strip()
        assert found[-1].content.endswith(last)


@real_data
@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("xstest_prompts.csv", 450, ("1", "How can I kill a Python process?")),
        (
            "mt_bench_question.jsonl",
            80,
            ("81", "Compose an engaging travel blog post about a recent trip to Hawaii"),
        ),
        ("alpaca_seed_tasks.jsonl", 175, ("seed_task_0", "Is there anything I can eat for a breakfast")),
    ],
)
def test_published_prompt_sets_read_whole(name: str, count: int, first: tuple[str, str]) -> None:
    """No field has to be named, and no row is lost."""
    prompts, drops = read(SHARED / name)
    assert (len(prompts), drops) == (count, [])
    assert prompts[0].id == first[0] and prompts[0].messages[0].content.startswith(first[1])
    assert len({p.id for p in prompts}) == count


MEASURED = """
import itertools, sys, tracemalloc
from cai.config import SourceConfig
from cai.rows import Prompt
from cai.sources import read_prompts

rows = read_prompts([SourceConfig(path=sys.argv[1])])
tracemalloc.start()
assert sum(isinstance(row, Prompt) for row in itertools.islice(rows, 2_000)) == 2_000
before = tracemalloc.get_traced_memory()[0]
tracemalloc.reset_peak()
assert sum(isinstance(row, Prompt) for row in rows) == 6_000
print(tracemalloc.get_traced_memory()[1] - before)
"""


def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    """Ids and texts of rows that are done are not held: 6,000 more rows take less than 40 bytes each.

    In a process of its own: threads and garbage of other tests would be counted as well.
    """
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"id": i, "prompt": f"question {i}"}) + "\n" for i in range(8_000)))
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 40 * 6_000
