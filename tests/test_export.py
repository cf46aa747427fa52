"""Exports: what each format writes is what its reader documents, and reads back as the same texts."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from pydantic import BaseModel, ConfigDict

from cai.config import SourceConfig
from cai.config_file import load_config
from cai.constitution import load_constitution
from cai.errors import ConfigError, StoreError
from cai.export.folder import export_folder
from cai.export.formats import FORMATS, FormatName
from cai.export.record import Choice, Exported
from cai.judges.labelled import read_pairs
from cai.rows import Demonstration, LabelledPair, Message, Pair, Prompt, Stepwise
from cai.sources import read_prompts
from cai.sources.records import read_records
from cai.store import write_json, write_rows
from tests.small_cli import ROOT

PAIRS: list[FormatName] = [name for name, form in FORMATS.items() if form.part == "preference"]
Spoken = tuple[str, str]


def turns(*spoken: Spoken) -> tuple[Message, ...]:
    return tuple(Message.model_validate({"role": role, "content": text}) for role, text in spoken)


def pair(name: str, *prompt: Spoken, chosen: str = "Yes.", rejected: str = "No.", **more: Any) -> Pair:
    known: dict[str, Any] = {
        "p": 0.9, "margin": 2.2, "source": "samples", "principles": ("kind",), "tags": ("harmful",), "lineage": name,
    }  # fmt: skip
    return Pair(
        id=name,
        prompt=turns(*(prompt or (("user", f"Question {name}"),))),
        chosen=turns(("assistant", chosen)),
        rejected=turns(("assistant", rejected)),
        **{**known, **more},
    )


def demonstration(number: int) -> Demonstration:
    return Demonstration(
        id=f"d{number}", prompt=turns(("user", f"Question {number}")), source="revision", tags=(), lineage="d",
        completion=turns(("assistant", f"Answer {number}")),
    )  # fmt: skip


def stepwise(number: int) -> Stepwise:
    asked = f"Question {number}"
    return Stepwise(
        id=f"s{number}", prompt=asked, completions=("First.", "Then."), labels=(True, False), p=(0.9, 0.2),
        messages=turns(("user", asked)), principles=("kind",), ended="bad", tags=(), lineage="s",
    )  # fmt: skip


def make_run(root: Path, pairs: list[Pair], **config: Any) -> Path:
    """A finished run as far as an export reads it."""
    dump = load_config(ROOT / "flows/configs/embedded.yaml").model_dump(mode="json") | config
    write_json(root / "config.json", dump)
    write_json(root / "constitution.json", load_constitution(ROOT / "constitutions/toy.yaml"))
    write_json(root / "summary.json", {"state": "finished", "dataset": {}, "seconds": 1.0})
    write_rows(root / "dataset/preference/train.jsonl", pairs)
    write_rows(root / "dataset/sft/train.jsonl", [demonstration(number) for number in range(40)])
    write_rows(root / "dataset/stepwise/train.jsonl", [stepwise(number) for number in range(40)])
    return root


SYSTEM = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "And now?"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """60 pairs of 30 prompts, one of them with a system turn and a history."""
    pairs = [pair(f"p{n}", ("user", f"Question {n // 2}"), chosen=f"Yes {n}.") for n in range(58)]
    return make_run(tmp_path / "small", [*pairs, pair("s", *SYSTEM), pair("t", *SYSTEM, chosen="Later.")])


def export(root: Path, format: FormatName, out: Path | None = None, **choice: Any) -> tuple[Path, Exported]:
    return export_folder(root, Choice(format, **choice), out)


def rows_in(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    (path,) = folder.glob(f"{split}.*")
    return [row for _, row in read_records(SourceConfig(path=str(path))) if isinstance(row, dict)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Turn(Strict):
    role: Literal["system", "user", "assistant"]
    content: str


class Said(Strict):
    role: Literal["assistant"]
    content: str


class Told(Strict):
    model_config = ConfigDict(populate_by_name=True)
    speaker: Literal["system", "human", "gpt"]
    value: str


class Known(Strict):
    """What rides along; readers leave it alone."""

    id: str
    p: float | None
    margin: float | None
    source: str
    principles: list[str]
    tags: list[str]
    lineage: str


class Trl(Known):
    """TRL, docs "Dataset formats and types": preference, conversational, explicit prompt."""

    prompt: list[Turn]
    chosen: list[Said]
    rejected: list[Said]


class Sft(Strict):
    """TRL, docs "Dataset formats and types": prompt-completion, conversational."""

    prompt: list[Turn]
    completion: list[Said]
    id: str
    source: str
    tags: list[str]
    lineage: str


class Kto(Strict):
    """TRL, docs "Dataset formats and types": unpaired preference, conversational."""

    prompt: list[Turn]
    completion: list[Said]
    label: bool
    id: str
    p: float | None
    source: str
    principles: list[str]
    tags: list[str]
    lineage: str


class Reward(Known):
    """TRL, docs "Dataset formats and types": preference, conversational, implicit prompt; docs "Reward": margin."""

    chosen: list[Turn]
    rejected: list[Turn]
    margin: float


class Axolotl(Strict):
    """Axolotl 0.19, prompt_strategies/dpo/chat_template.py `default`, and docs/rlhf: chat_template.default."""

    messages: list[Turn]
    chosen: Said
    rejected: Said
    id: str
    p: float | None


class LlamaFactory(Strict):
    """LLaMA-Factory 0.9.5, data/README.md, "Sharegpt Format", "Preference Dataset"."""

    conversations: list[dict[Literal["from", "value"], str]]
    chosen: dict[Literal["from", "value"], str]
    rejected: dict[Literal["from", "value"], str]
    id: str
    p: float | None


class OpenRlhf(Strict):
    """OpenRLHF 0.11, datasets/reward_dataset.py: whole conversations, `margin` read where it is not null."""

    chosen: list[Turn]
    rejected: list[Turn]
    margin: float | None
    id: str


class Input(Strict):
    messages: list[Turn]


class OpenAi(Strict):
    """OpenAI, guide "Direct preference optimization", section "Data format"; the optional `tools` are left out."""

    input: Input
    preferred_output: list[Said]
    non_preferred_output: list[Said]


class OpenAiSft(Strict):
    """OpenAI, guide "Supervised fine-tuning": the chat format."""

    messages: list[Turn]


class Hh(Strict):
    """Anthropic, hh-rlhf, README: pairs of texts, one chosen and one rejected."""

    chosen: str
    rejected: str


class Steps(Strict):
    """TRL, docs "Dataset formats and types": stepwise supervision, a standard (plain text) format."""

    prompt: str
    completions: list[str]
    labels: list[bool]
    step_p: list[float]
    messages: list[Turn]
    principles: list[str]
    ended: str
    id: str
    tags: list[str]
    lineage: str


class Table(Strict):
    """Our own columns: a spreadsheet has no schema."""

    id: str
    turns_before: str
    prompt: str
    chosen: str
    rejected: str
    p: str
    margin: str
    source: str
    principles: str
    tags: str
    lineage: str


SCHEMAS: dict[FormatName, type[BaseModel]] = {
    "trl": Trl, "sft": Sft, "kto": Kto, "reward": Reward, "axolotl": Axolotl, "llama-factory": LlamaFactory,
    "openrlhf": OpenRlhf, "openai": OpenAi, "openai-sft": OpenAiSft, "anthropic-hh": Hh, "csv": Table,
    "stepwise": Steps,
}  # fmt: skip


@pytest.mark.parametrize("format", get_args(FormatName))
def test_rows_are_what_the_reader_documents(run: Path, format: FormatName) -> None:
    """Every row of both splits, by the schema written down above with its source; rows and record agree."""
    folder, found = export(run, format, eval_share=0.3)
    for split, count in found.rows.items():
        rows = rows_in(folder, split)
        assert len(rows) == count > 0
        assert all(SCHEMAS[format].model_validate(row) for row in rows)
    assert set(found.files) == {path.name for path in folder.iterdir()} - {"export.json"}


def test_sharegpt_turns_begin_with_the_user_and_alternate(run: Path) -> None:
    """LLaMA-Factory takes an odd number of turns from the user on, a system turn before them, `gpt` replies."""
    folder, found = export(run, "llama-factory", eval_share=0.3)
    for row in [*rows_in(folder), *rows_in(folder, "eval")]:
        speakers = [turn["from"] for turn in row["conversations"]]
        spoken = speakers[1:] if speakers[0] == "system" else speakers
        assert len(spoken) % 2 == 1 and set(spoken[::2]) == {"human"} and set(spoken[1::2]) <= {"gpt"}
        assert row["chosen"]["from"] == row["rejected"]["from"] == "gpt"
    info = json.loads((folder / "dataset_info.json").read_text())
    assert {name: entry["file_name"] for name, entry in info.items()} == {
        "small_train": "train.jsonl", "small_eval": "eval.jsonl",
    }  # fmt: skip
    assert all(entry["ranking"] and entry["formatting"] == "sharegpt" for entry in info.values())
    assert not found.left_out


@pytest.mark.parametrize("format", get_args(FormatName))
def test_load_dataset_takes_the_folder_as_it_is(run: Path, format: FormatName, tmp_path: Path) -> None:
    """Through the card's own header: both splits, all rows, no other file taken for data."""
    import datasets

    folder, found = export(run, format, eval_share=0.3)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == found.rows


def prompts_of(folder: Path, split: str) -> set[tuple[Message, ...]]:
    (path,) = folder.glob(f"{split}.*")
    return {row.messages for row in read_prompts([SourceConfig(path=str(path))]) if isinstance(row, Prompt)}


def test_no_prompt_is_in_both_splits(run: Path) -> None:
    """And each prompt is in the same split of every format, so that SFT learns nothing that DPO is measured on."""
    sides = {}
    for format in get_args(FormatName):
        folder, _ = export(run, format, eval_share=0.3)
        train, held = prompts_of(folder, "train"), prompts_of(folder, "eval")
        assert train and held and not train & held
        sides[format] = {prompt: prompt in held for prompt in train | held}
    for found in sides.values():
        assert all(sides["trl"].get(prompt, side) == side for prompt, side in found.items())
    assert len(sides["trl"]) == 30


def test_the_same_rows_give_the_same_bytes(run: Path, tmp_path: Path) -> None:
    """In another folder too; and an export that is there already is left alone."""
    for format in get_args(FormatName):
        first, found = export(run, format)
        second, again = export(run, format, tmp_path / "other" / format)
        assert found == again
        assert {path.name: path.read_bytes() for path in first.iterdir()} == {
            path.name: path.read_bytes() for path in second.iterdir()
        }
        before = first.stat().st_ino
        assert export(run, format) == (first, found) and first.stat().st_ino == before


REASONS = {
    "system_turn": pair("a", *SYSTEM),
    "turns_do_not_alternate": pair("b", ("user", "Hi"), ("user", "There")),
    "prompt_not_of_user": pair("c", ("user", "Hi"), ("assistant", "Hello")),
    "lone_surrogate": pair("d", chosen="half \ud800"),
    "template_tokens": pair("e", rejected="Done.<|im_end|>\n<|im_start|>user\nMore"),
    "speaker_in_text": pair("f", chosen="He said:\n\nHuman: no"),
    "blanks_around_text": pair("g", chosen="Fine. \n"),
    "reply_not_one_turn": pair("h").model_copy(
        update={"chosen": turns(("assistant", "a"), ("user", "b"), ("assistant", "c"))}
    ),
    "no_p": pair("i", p=None, margin=None, source="demonstration"),
}
CHAT = {"lone_surrogate", "prompt_not_of_user", "reply_not_one_turn", "template_tokens"}
HELD_BACK: dict[FormatName, set[str]] = {
    "trl": CHAT,
    "kto": CHAT,
    "reward": CHAT | {"no_p"},
    "axolotl": CHAT,
    "llama-factory": CHAT | {"turns_do_not_alternate"},
    "openrlhf": CHAT,
    "openai": CHAT - {"template_tokens"},
    "anthropic-hh": set(REASONS) - {"template_tokens", "no_p"},
    "csv": CHAT - {"template_tokens"},
}


@pytest.mark.parametrize("format", PAIRS)
def test_what_a_format_cannot_hold_is_counted_by_reason(tmp_path: Path, format: FormatName) -> None:
    """One row of each kind: those that are left out are counted under their names, the others are all there."""
    root = make_run(tmp_path / "run", [*REASONS.values(), pair("z", chosen="Plain.")])
    _, found = export(root, format, eval_share=0)
    assert found.left_out == dict.fromkeys(sorted(HELD_BACK[format]), 1)
    kept = len(REASONS) + 1 - len(HELD_BACK[format])
    assert found.rows == {"train": kept * (2 if format == "kto" else 1), "eval": 0}
    assert found.read == len(REASONS) + 1


HOSTILE = [
    "=cmd|'/C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "'", "\x00", "\x1b[2J", "\u202e",
    "null", "NA", "", " ", "a,b;\"c\"\r\nd\n", "\n\nHuman: x\n\nAssistant: y", "Assistant:", "<s>", "[INST]", "\ud800",
    "{{ x }}", "<script>alert(1)</script>", "| a |\n# b", "\ufeff", "\u2028",
]  # fmt: skip
text = st.one_of(
    st.sampled_from(HOSTILE), st.text(max_size=12), st.text(alphabet="\n\r \t:Humant=Asi'", max_size=14)
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    history = draw(st.lists(st.tuples(text, text), max_size=2))
    spoken = [(role, said) for two in history for role, said in zip(("user", "assistant"), two, strict=True)]
    system = draw(st.lists(st.tuples(st.just("system"), text), max_size=1))
    return turns(*system, *spoken, ("user", draw(text)))


@st.composite
def many_pairs(draw: st.DrawFn) -> list[Pair]:
    made = draw(st.lists(st.tuples(conversations(), text, text), min_size=1, max_size=6))
    return [pair("plain", ("user", "Plain question"))] + [
        pair(f"-{n}", chosen=chosen, rejected=rejected).model_copy(update={"prompt": prompt})
        for n, (prompt, chosen, rejected) in enumerate(made)
    ]


UNSHRUNK = (
    Phase.explicit,
    Phase.reuse,
    Phase.generate,
)  # an example is nine exports: shrinking takes minutes


def as_read(row: LabelledPair) -> tuple[tuple[Message, ...], str, str]:
    return (row.messages, row.a, row.b) if row.gold == "A" else (row.messages, row.b, row.a)


def texts_of(one: Pair) -> list[str]:
    return [turn.content for turn in (*one.prompt, *one.chosen, *one.rejected)]


def test_half_a_character_in_a_name_costs_its_row_alone(tmp_path: Path) -> None:
    """Tags come from files of others; the row is counted like any other that no file can hold."""
    root = make_run(tmp_path / "run", [pair("a"), pair("b", tags=("\ud800",))])
    for format in PAIRS:
        assert export(root, format, eval_share=0)[1].left_out == {"lone_surrogate": 1}


def is_utf8(one: Pair) -> bool:
    return not any(re.search("[\ud800-\udfff]", said) for said in texts_of(one))


@settings(max_examples=12, phases=UNSHRUNK)
@given(pairs=many_pairs())
@pytest.mark.slow
def test_what_is_exported_reads_back_as_the_same_texts(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair]
) -> None:
    """As labelled pairs and as prompts, from every format of pairs, for hostile texts too; the rest is counted."""
    root = make_run(tmp_path_factory.mktemp("run"), pairs)
    for format in PAIRS:
        if format == "kto":
            continue
        folder, found = export(root, format, eval_share=0)
        (path,) = folder.glob("train.*")
        back = [as_read(row) for _, row in read_pairs(path, LabelledPair)]
        whole = [(one.prompt, one.chosen[0].content, one.rejected[0].content) for one in pairs]
        assert len(back) == found.rows["train"] == len(pairs) - sum(found.left_out.values())
        rest = iter(whole)
        assert all(row in rest for row in back), format  # in their order, none twice
        if format in ("openai", "csv"):
            assert back == [row for row, one in zip(whole, pairs, strict=True) if is_utf8(one)]
        asked = {prompt for prompt, _, _ in back if prompt[-1].content.strip()}
        assert prompts_of(folder, "train") == asked


@settings(max_examples=12, phases=UNSHRUNK)
@given(pairs=many_pairs())
def test_replies_by_themselves_keep_their_prompts(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[Pair]
) -> None:
    """KTO rows: every reply of a row that is kept once, with its label; their prompts are prompts."""
    root = make_run(tmp_path_factory.mktemp("run"), pairs)
    folder, found = export(root, "kto", eval_share=0)
    back = {
        (json.dumps(row["prompt"]), row["completion"][0]["content"], row["label"]) for row in rows_in(folder)
    }
    kept = [one for one in pairs if one.id in {row["id"] for row in rows_in(folder)}]
    wanted = {
        (json.dumps([turn.model_dump() for turn in one.prompt]), reply[0].content, label)
        for one in kept
        for reply, label in ((one.chosen, True), (one.rejected, False))
    }
    assert back == wanted and len(back) == found.rows["train"]
    assert prompts_of(folder, "train") == {one.prompt for one in kept if one.prompt[-1].content.strip()}


def test_no_cell_of_a_table_is_a_formula(tmp_path: Path) -> None:
    """As a spreadsheet reads the cells; `load_dataset` gives the words "null" and "NA" back as words."""
    import datasets

    held = [said for said in HOSTILE if said not in ("\ud800", "")]
    pairs = [pair(f"={n}", ("user", said), chosen=said, rejected="x") for n, said in enumerate(held)]
    folder, _ = export(make_run(tmp_path / "run", pairs), "csv", eval_share=0)
    with (folder / "train.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    for row in rows:
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝")) for cell in row)
        named = dict(zip(header, row, strict=True))["guarded"].split()
        assert all(cell.startswith("'") for name, cell in zip(header, row, strict=True) if name in named)
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    words = [row["chosen"] for row in loaded if row["prompt"] in ("null", "NA", "'", "Assistant:")]
    assert words == ["'", "null", "NA", "Assistant:"]


def test_unsure_and_unjudged_pairs_are_left_out_on_request(tmp_path: Path) -> None:
    """--min-p keeps what is at least so sure; what nobody judged has no p to go by."""
    pairs = [pair(f"p{n}", p=0.5 + n / 20, margin=n / 10) for n in range(1, 11)]
    root = make_run(tmp_path / "run", [*pairs, pair("self", p=None, margin=None)])
    folder, found = export(root, "trl", eval_share=0, min_p=0.8)
    assert found.left_out == {"below_min_p": 5, "no_p": 1}
    assert [row["p"] for row in rows_in(folder)] == [0.8, 0.85, 0.9, 0.95, 1.0]


def test_the_card_is_one_that_a_hub_reads(run: Path) -> None:
    """Header by huggingface_hub's own class; counts, lineage, reasons and what is not known are told."""
    from huggingface_hub import DatasetCard

    folder, found = export(run, "anthropic-hh", eval_share=0.3)
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "unknown" and card.data.size_categories == ["n<1K"]
    (config,) = card.data.configs
    assert {one["split"] for one in config["data_files"]} == {"train", "eval"}
    assert found.left_out == {"system_turn": 2}
    for told in (
        f"| `train` | {found.rows['train']} |",
        "| this export | system_turn | 2 |",
        load_constitution(ROOT / "constitutions/toy.yaml").digest,
        "| 0.85–0.90 | 0 |\n| 0.90–0.95 | 58 |",
        "| generate.jsonl | – | not stated |",
        "states no licence for the prompts of generate.jsonl",
        "was not measured on labelled pairs",
        "The judge is the model that wrote the replies",
    ):
        assert told in card.content, told


def test_names_from_files_stay_names_in_the_card(tmp_path: Path) -> None:
    """Tags, principles, sources and licences are other people's text: no markup, no second line."""
    evil = "</td>|\n# <script>alert(1)</script> [x](javascript:1) `\u202e"
    prompts = [
        {"path": f"/secret/place/{evil.replace('/', '')}.jsonl", "tags": [evil], "licence": "cc-by-4.0"},
        {"dataset": "org/set", "licence": evil},
    ]
    root = make_run(tmp_path / "run", [pair("a", tags=(evil,), principles=(evil,))], prompts=prompts)
    folder, _ = export(root, "trl", eval_share=0)
    card = (folder / "README.md").read_text()
    body = card.partition("---\n\n")[2]
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    assert page.count("<h1>") == 1 and not re.search(r"<script|<a |\u202e", page)
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt; [x](javascript:1)") == 4
    assert "| cc-by-4.0 |" in body and "/secret" not in card and "license: other" in card
    assert "The licences of the prompts are what the run's config states" in body


def broken(run: Path) -> Iterator[tuple[Choice, Path | None, str]]:
    taken = run / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    yield Choice("trl"), taken, "holds files that no export made; name an empty or a new folder"
    yield Choice("trl"), taken / "thesis.txt", "is not a folder; name another one"
    yield (
        Choice("trl", "preference-2"),
        None,
        "there is no part 'preference-2': the dataset has preference, sft, stepwise",
    )
    yield (
        Choice("trl", "sft"),
        None,
        "--part sft: the format trl is for the part preference, preference-2 …",
    )
    yield Choice("sft", "preference"), None, "--part preference: the format sft is for the part sft"
    yield Choice("sft", min_p=0.8), None, "--min-p 0.8: rows of the part sft have no p of their own"
    yield Choice("trl", min_p=0.95), None, "no row is left for the format trl (below_min_p 60)"
    yield Choice("trl", eval_share=1.0), None, "all 60 rows fall into the eval split; give --eval-share 0"


def test_what_cannot_be_exported_is_told_in_one_line(run: Path, tmp_path: Path) -> None:
    """And nothing is written or removed for it."""
    for choice, out, expected in broken(run):
        before = {*run.rglob("*"), run / "exports"}
        with pytest.raises(ConfigError) as error:
            export_folder(run, choice, out)
        assert expected in str(error.value) and "\n" not in str(error.value)
        assert {*run.rglob("*"), run / "exports"} == before
    with pytest.raises(ConfigError, match="not a run"):
        export(tmp_path, "trl")


def test_an_export_is_there_whole_or_not_at_all(run: Path) -> None:
    """A torn dataset leaves the export before as it was, and nothing half written beside it."""
    folder, _ = export(run, "trl")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    data = run / "dataset/preference/train.jsonl"
    whole = data.read_bytes()
    data.write_bytes(whole[:-40])
    with pytest.raises(StoreError, match=r"train\.jsonl:60: not a Pair row"):
        export(run, "trl")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    data.write_bytes(whole[: whole.index(b"\n") + 1])
    _, found = export(run, "trl", eval_share=0)
    assert found.rows["train"] == 1 and not (folder / "eval.parquet").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["trl"]


def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    """Eight times the rows, each with a prompt of its own: what Python holds at most stays what it was."""
    import tracemalloc

    peaks = []
    for count in (25, 200, 1600):  # the first one pays for what is made once
        rows = [pair(f"p{n}", ("user", f"{n} " * 200)) for n in range(count)]
        root = make_run(tmp_path / str(count), rows)
        del rows
        tracemalloc.start()
        _, found = export(root, "axolotl")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(found.rows.values()) == count
    assert peaks[2] < 2.5 * peaks[1]  # the rows of the last one are five megabytes
