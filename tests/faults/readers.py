"""Every reader of files that somebody else may have written: a good file for each, and how it is read."""

from __future__ import annotations

import gzip
import io
import json
import math
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from cai.audit.read import read as read_audited
from cai.config import SourceConfig
from cai.config_file import load_config
from cai.constitution import load_constitution
from cai.constitution.rewrite import mend_file
from cai.imports import FORMATS, import_file
from cai.imports.write import draft_yaml
from cai.judge.fit import Settings
from cai.judge.summary import summarise
from cai.judges.calibration import calibrate, read_calibration
from cai.judges.labelled import case_of, read_pairs, read_recording
from cai.prompts import load_templates
from cai.rows import LabelledPair, Recorded
from cai.sources import read_prompts
from cai.store import decode, encode
from tests.test_config import GOOD as CONFIG
from tests.test_constitution_fuzz import SEED as CONSTITUTION
from tests.test_import import PROSE, SAMPLES, written
from tests.test_judge_replay import rows as replay_rows

LARGE = Path("flows/configs/embedded.yaml")


class Reader(NamedTuple):
    """One reader: the name of its file, a good one, and how it is read. `lines`: its lines are JSON, not the whole."""

    name: str
    good: bytes
    read: Callable[[Path], object]
    lines: bool = False


def jsonl(rows: Iterable[Any]) -> bytes:
    """Lines of JSON."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _prompts(**more: Any) -> Callable[[Path], object]:
    return lambda path: _kept(read_prompts([SourceConfig(path=str(path), **more)]))


def _kept(rows: Iterable[BaseModel]) -> object:
    """What is accepted is written and read as the same."""
    for row in rows:
        assert decode(encode(row), type(row)) == row
    return None


def _pairs(path: Path) -> object:
    return _kept(pair for _, pair in read_pairs(path, LabelledPair))


def _config(path: Path) -> object:
    config = load_config(path)
    _kept([config])
    assert config.root.name == config.name and config.root.parent == Path(config.outputs)
    return config


def _curves(path: Path) -> object:
    """What a run labels by; the figures beside it are for people."""
    found = read_calibration(path)
    _kept(member.curve for member in found.members)
    assert all(math.isfinite(confidence) for row in found.rows for confidence, _ in row)
    return found


def _as_yaml_of_json(text: str) -> bytes:
    """The same content with nothing but what JSON has, so that its values can be changed."""
    return json.dumps(yaml.safe_load(text)).encode()


def _imported(format: str | None) -> Callable[[Path], object]:
    """A draft of another format, which has to be a constitution."""

    def read(path: Path) -> object:
        draft = import_file(path, format)
        out = path.with_name("draft.yaml")
        out.write_text(draft_yaml(draft, schema=False))
        assert load_constitution(out).name == draft.file.name
        return draft

    return read


def _mended(path: Path) -> object:
    mend_file(path)
    return load_constitution(path)


def _drained(rows: Iterable[object]) -> object:
    return deque(rows, maxlen=0)


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(pa.table({"id": ["a", "b"], "prompt": ["Hi?", "Bye."], "tags": [["x"], []]}), out)
    return out.getvalue()


def _template(path: Path) -> object:
    folder = path.with_name("templates")
    folder.mkdir(exist_ok=True)
    for stem, text in load_templates("default").items():
        (folder / f"{stem}.txt").write_text(text)
    (folder / "critique.txt").unlink()
    (folder / "critique.txt").symlink_to(path.absolute())
    load_templates.__globals__["_load"].cache_clear()
    return load_templates(str(folder))


ASKED = [
    {"id": "p1", "prompt": "Hi?", "tags": ["a", "b"]},
    {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Bye?"}]},
    {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}], "tags": "x, y"},
    {"input": {"messages": [{"role": "user", "content": "In?"}]}},
    {"instruction": "Do", "instances": [{"input": "this"}]},
    {"chosen": "\n\nHuman: One?\n\nAssistant: A", "rejected": "\n\nHuman: One?\n\nAssistant: B"},
    {"id": 7, "prompt": "Then?", "turns_before": '[{"role": "user", "content": "Hi"}]'},
]
PUBLISHED = [
    {"prompt": "Hi?", "chosen": "A", "rejected": "B", "id": "1"},
    {"chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
     "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "B"}]},
    {"input": {"messages": [{"role": "user", "content": "Q2"}]},
     "preferred_output": [{"role": "assistant", "content": "A"}],
     "non_preferred_output": [{"role": "assistant", "content": "B"}]},
]  # fmt: skip
LABELLED = [
    {"id": "1", "prompt": "Q", "a": "x", "b": "y", "gold": "A", "principle": None, "tags": ["a"]},
    {"id": 2, "prompt": [{"role": "user", "content": "Q"}], "a": "x", "b": "y", "gold": "tie"},
    {"id": "3", "prompt": "Q", "a": "x", "b": "y", "gold": None},
]
CSV = b'id,prompt,tags,guarded\r\na,"Hi, ""you""?",x,\r\nb,\'=1+1,y,prompt\r\n'


def _calibration() -> bytes:
    """A judge's, of 60 pairs."""
    cases = [case_of(Recorded.model_validate(row)) for row in replay_rows()]
    found = summarise([("j", cases)], "single", Settings())
    return encode(calibrate([("j", cases)], "isotonic", 1, found))


READERS: dict[str, Reader] = {
    "a constitution": Reader("c.yaml", CONSTITUTION.encode(), load_constitution),
    "a constitution to mend": Reader("c.yaml", CONSTITUTION.encode(), _mended),
    "a constitution's values": Reader("c.yaml", _as_yaml_of_json(CONSTITUTION), load_constitution),
    "a run config": Reader("run.yaml", CONFIG.encode(), _config),
    "a run config's values": Reader("run.yaml", _as_yaml_of_json(LARGE.read_text()), _config),
    "prompts": Reader("p.jsonl", jsonl(ASKED), _prompts(), lines=True),
    "prompts in a column": Reader(
        "p.jsonl", jsonl([{"q": "Hi?"}, {"q": ["a"]}]), _prompts(field="q"), lines=True
    ),
    "transcripts": Reader(
        "p.jsonl",
        jsonl([{"t": "\n\nHuman: Hi\n\nAssistant: A"}]),
        _prompts(field="t", transcript=True),
        lines=True,
    ),
    "packed prompts": Reader("p.jsonl.gz", gzip.compress(jsonl(ASKED), mtime=0), _prompts()),
    "a table of prompts": Reader("p.csv", CSV, _prompts()),
    "prompts as text": Reader("p.txt", "Hi?\nBye \u00e9?\n".encode(), _prompts()),
    "prompts in Parquet": Reader("p.parquet", _parquet(), _prompts()),
    "labelled pairs": Reader("l.jsonl", jsonl(LABELLED), _pairs, lines=True),
    "published pairs": Reader("l.jsonl", jsonl(PUBLISHED), _pairs, lines=True),
    "verdicts": Reader("v.jsonl", jsonl(replay_rows(n=4)), read_recording, lines=True),
    "a calibration": Reader("cal.json", _calibration(), _curves),
    "a dataset to audit": Reader(
        "d.jsonl", jsonl(PUBLISHED), lambda p: _drained(read_audited(p)), lines=True
    ),
    "an array to audit": Reader(
        "d.json", json.dumps(PUBLISHED).encode(), lambda p: _drained(read_audited(p))
    ),
    "a template": Reader("critique.txt", load_templates("default")["critique"].encode(), _template),
    "a constitution in prose": Reader("c.md", PROSE.encode(), _imported(None)),
    **{
        f"a constitution in {format}": Reader(
            "c.jsonl" if FORMATS[format].kind == "jsonl" else "c.json",
            written(format, value).encode(),
            _imported(format),
            lines=FORMATS[format].kind == "jsonl",
        )
        for format, value in SAMPLES.items()
    },
}
