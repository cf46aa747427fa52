"""Files that nobody should be able to write, and every reader of files that somebody else may have written.

`READERS` holds, for each reader, a good file and how it is read. `mutated` makes other files of a good one: bytes in
the wrong place, and, where it is JSON, values of other types, keys that stand twice, numbers out of all bounds and
texts that steer a terminal. `BAD` are files that are no files, or bombs. Whatever a reader meets, it gives a value, or
one line that names the file.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hypothesis import strategies as st
from pydantic import BaseModel

from cai.audit.read import read as read_audited
from cai.calibration import calibrate, read_calibration
from cai.config import SourceConfig
from cai.config_file import load_config
from cai.constitution import load_constitution
from cai.constitution.rewrite import mend_file
from cai.errors import CaiError
from cai.imports import FORMATS, import_file
from cai.imports.write import draft_yaml
from cai.judge.fit import Settings
from cai.judge.summary import summarise
from cai.labelled import case_of, read_pairs, read_recording
from cai.prompts import load_templates
from cai.rows import LabelledPair, Recorded
from cai.sources import read_prompts
from cai.store import decode, encode
from tests.test_config import GOOD as CONFIG
from tests.test_constitution_fuzz import SEED as CONSTITUTION
from tests.test_import import PROSE, SAMPLES, written
from tests.test_judge_replay import rows as replay_rows

LARGE = Path("flows/configs/embedded.yaml")
LIMIT_S = 120  # of one reading; a hang, not a slow machine
MOST_MESSAGE = 4000  # characters of an error
STEERING = "\x1b[31m\x1b]8;;http://x\x07\u202e\u2066\x9b\x00\ud800</script>{{7*7}}[red]%s=1+1|`\n"
ATOMS: list[Any] = [
    None, True, -1, 0, 1e308, 2**63, -(2**64), 10**400, float("nan"), float("inf"), "", " ", "A", STEERING,
    "../../../etc/passwd", "/etc/passwd", "a" * 300, "\x00", "\ud800", "\udc80", "=HYPERLINK(1)", "<|im_end|>",
    [], {}, [[]], [None], {"": None}, {"role": "user", "content": STEERING}, [{"role": "user", "content": 1}],
    [["a", 1]], "1e999", "NaN", "2024-13-45", -0.0, {"$ref": "#"}, ["A", "B"], "tie", 0.5,
]  # fmt: skip
PIECES = [
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\n", b"\n\n", b"\x1b[2J", b"\xe2\x80\xae", b"\xed\xa0\x80",
    b"\xe9", b"\\ud800", b"\\u0000", b'"', b"'", b",", b":", b"[", b"]", b"{", b"}", b"null", b"NaN", b"1e999", b"-",
    b"9" * 400,
    b"&a ", b"*a", b"<<: ", b"!!python/object:os.system ", b"!!int ", b"? ", b"---\n", b"\t", b"#", b"|\n",
    b"\xe2\x80\xa8", b"[" * 3000, b'{"a":' * 3000, b"</script>", b"=1+1", b"..", b"/", b"{principle}",
]  # fmt: skip


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


@st.composite
def mutated(draw: st.DrawFn, reader: Reader) -> bytes:
    """Another file than the good one: with other values where it is JSON, then with other bytes."""
    data = reader.good
    if draw(st.booleans()) and (whole := _as_json(data, reader.lines)) is not None:
        for _ in range(draw(st.integers(1, 4))):
            whole = _changed(draw, whole)
        data = jsonl(whole) if reader.lines and isinstance(whole, list) else json.dumps(whole).encode()
        if draw(st.booleans()):
            return data
    edits = st.tuples(
        st.integers(0, len(data)), st.integers(0, 12), st.sampled_from(PIECES) | st.binary(max_size=3)
    )
    for start, length, piece in draw(st.lists(edits, max_size=5)):
        data = data[:start] + piece + data[start + length :]
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


def _as_json(data: bytes, lines: bool) -> Any:
    try:
        return [json.loads(line) for line in data.splitlines()] if lines else json.loads(data)
    except ValueError:
        return None


def _changed(draw: st.DrawFn, value: Any) -> Any:
    """A value with one thing in it replaced, left out, doubled or wrapped."""
    places = list(_places(value))
    path = places[draw(st.integers(0, len(places) - 1))]
    how = draw(st.sampled_from(["atom", "atom", "atom", "gone", "wrap", "key"]))
    atom = draw(st.sampled_from(ATOMS))
    return _replaced(value, path, how, atom)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _replaced(value: Any, path: tuple[Any, ...], how: str, atom: Any) -> Any:
    if not path:
        return [value] if how == "wrap" else {STEERING: value} if how == "key" else atom
    key, *rest = path
    copy = dict(value) if isinstance(value, dict) else list(value)
    if not rest and how == "gone":
        del copy[key]
    elif not rest and how == "key" and isinstance(copy, dict):
        copy[str(atom)] = copy.pop(key)
    else:
        copy[key] = _replaced(value[key], tuple(rest), how, atom)
    return copy


def _deep(open_: bytes, close: bytes, depth: int = 100_000) -> bytes:
    return open_ * depth + close * depth


BOMBS: dict[str, bytes] = {
    "nothing": b"",
    "blanks": b" \n\t\n",
    "a byte order mark": b"\xef\xbb\xbf",
    "zeros": bytes(4096),
    "UTF-16": '{"prompt": "Hi"}\n'.encode("utf-16"),
    "Latin-1": b'{"prompt": "caf\xe9"}\n',
    "100,000 lists": _deep(b"[", b"]"),
    "100,000 objects": _deep(b'{"prompt":', b"}"),
    "a row of 100,000 lists": b'{"prompt": ' + _deep(b"[", b"]") + b"}\n",
    "a number of a million digits": b'{"id": ' + b"9" * 1_000_000 + b', "prompt": "Hi"}\n',
    "billion laughs": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in range(ord("b"), ord("l"))),
    "a text of 3 MB": b'{"prompt": "' + b"x" * 3_000_000 + b'"}\n',
    "one line of 3 MB": b"x" * 3_000_000,
    "a Python object": b"!!python/object/apply:os.system ['false']\n",
    "a Parquet head": b"PAR1" + bytes(100) + b"PAR1",
    "a gzip head": b"\x1f\x8b\x08" + bytes(20),
}  # fmt: skip


def _writer(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _circle(path: Path) -> None:
    path.symlink_to(path)


BAD: dict[str, Callable[[Path], object]] = {
    **{name: _writer(data) for name, data in BOMBS.items()},
    "no file": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a circle of links": _circle,
}


def outcome(reader: Reader, path: Path) -> object:
    """What a reader makes of a file: a value, or the CaiError. Raises AssertionError for a message of another sort."""
    with limited():
        try:
            return reader.read(path)
        except CaiError as error:
            check_message(str(error), path)
            return error


def check_message(message: str, path: Path) -> None:
    """One line that names the file and steers nothing."""
    assert path.name.partition(".")[0] in message, message
    assert message.isprintable(), message
    assert len(message) <= MOST_MESSAGE, message[:500]


@contextmanager
def limited(seconds: int = LIMIT_S) -> Iterator[None]:
    """Raise AssertionError where the block takes longer; for the main thread."""

    def stop(*_: object) -> None:
        raise AssertionError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
