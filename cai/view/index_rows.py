"""What the index knows of a row: enough to find, filter and sort it, and where it lies; never the row itself."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, cast

import orjson

Table = Literal[
    "prompts", "replies", "revisions", "judgments", "verdicts", "pairs", "demonstrations", "drops"
]
Json = dict[str, Any]


class Entry(NamedTuple):
    """One row of the index. `part`: which verdict of a judgment, else 0. `state`, `kind`: as the table has it.

    `p`: of the row itself; `confidence`: max(p, 1 - p); `length`: characters of its main text. `text`: all its texts,
    folded to lower case. `one`, `two`: digests of its texts, by which two versions of it are compared.
    """

    id: str
    part: int
    prompt: str
    source: str
    tags: list[str]
    principles: list[str]
    models: list[str]
    state: str
    kind: str
    p: float | None
    confidence: float | None
    length: int
    text: str
    one: int
    two: int


def parse(line: bytes) -> Json:
    """A line of a published file. Raises ValueError for another kind of line."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = json.loads(line)  # takes escapes of lone surrogates
    if not isinstance(row, dict):
        raise ValueError("not an object")
    return row


def _prompt(row: Json) -> Iterator[Entry]:
    texts = [turn["content"] for turn in row["messages"]]
    yield _entry(row["id"], row, "", "", texts=texts, main=texts[-1], models=[])


def _reply(row: Json) -> Iterator[Entry]:
    texts = (row["prompt"]["messages"][-1]["content"], row["text"])
    yield _entry(
        row["id"],
        row["prompt"],
        row["finish_reason"],
        "",
        texts=texts,
        main=row["text"],
        models=[row["model"]],
    )


def _revision(row: Json) -> Iterator[Entry]:
    reply, rounds = row["reply"], row["rounds"]
    violated = any(done["violated"] for done in rounds)
    state = "revised" if row["final"] != reply["text"] else "unchanged" if violated else "no_violation"
    texts = [reply["prompt"]["messages"][-1]["content"], reply["text"], row["final"]]
    texts += [done["critique"] for done in rounds]
    yield _entry(
        row["id"], reply["prompt"], state, "", texts=texts, main=row["final"], models=[reply["model"]],
        principles=[done["principle"] for done in rounds],
    )  # fmt: skip


def _judgment(row: Json) -> Iterator[Entry]:
    a, b, verdicts = row["a"], row["b"], row["verdicts"]
    texts = (row["prompt"]["messages"][-1]["content"], a["text"], b["text"])
    yield _entry(
        row["id"], row["prompt"], row["state"], f"{a['kind']}/{b['kind']}", texts=texts,
        main=max(a["text"], b["text"], key=len), p=row["p"],
        models=dict.fromkeys(verdict["judge"] for verdict in verdicts),
        principles=dict.fromkeys(verdict["principle"] for verdict in verdicts),
        digests=(a["text"], b["text"]),
    )  # fmt: skip


def _verdicts(row: Json) -> Iterator[Entry]:
    prompt = row["prompt"]
    id_, asked = utf8(row["id"]), utf8(prompt["id"])
    source, tags = utf8(prompt["source"]), _names(tuple(prompt["tags"]))
    text = utf8(f"{row['id']}\n{prompt['messages'][-1]['content']}".lower())
    for part, one in enumerate(row["verdicts"]):
        p, under, by = one["p"], _names((one["principle"],)), _names((one["judge"],))
        sure = None if p is None else max(p, 1 - p)
        state = utf8(one["failure"] or "read")
        yield Entry(
            id_, part, asked, source, tags, under, by, state, utf8(one["order"]), p, sure, 0, text, 0, 0
        )


def _pair(row: Json) -> Iterator[Entry]:
    chosen, rejected = row["chosen"][-1]["content"], row["rejected"][-1]["content"]
    prompt = {"id": prompt_of(row["id"]), "tags": row["tags"], "source": ""}
    yield _entry(
        row["id"], prompt, "", row["source"], texts=(row["prompt"][-1]["content"], chosen, rejected), main=chosen,
        p=row["p"], models=[], principles=row["principles"], digests=(chosen, rejected),
    )  # fmt: skip


def _demonstration(row: Json) -> Iterator[Entry]:
    text = row["completion"][-1]["content"]
    prompt = {"id": prompt_of(row["id"]), "tags": row["tags"], "source": ""}
    texts = (row["prompt"][-1]["content"], text)
    yield _entry(row["id"], prompt, "", row["source"], texts=texts, main=text, models=[])


def _drop(row: Json) -> Iterator[Entry]:
    prompt = {"id": prompt_of(row["id"]), "tags": (), "source": ""}
    yield _entry(
        row["id"], prompt, row["reason"], row["stage"], texts=(row["id"], row["detail"]), main="", models=[]
    )


ENTRIES: Mapping[Table, Callable[[Json], Iterator[Entry]]] = {
    "prompts": _prompt,
    "replies": _reply,
    "revisions": _revision,
    "judgments": _judgment,
    "verdicts": _verdicts,
    "pairs": _pair,
    "demonstrations": _demonstration,
    "drops": _drop,
}


def prompt_of(id_: str) -> str:
    """The prompt that a row descends from, by its id: `p` of `p/r0~p/r0/v`. Ids of replies end in `/r` and a number."""
    first = id_.partition("~")[0].removesuffix("/v")
    parent, _, last = first.rpartition("/")
    return parent if parent and last[:1] == "r" and last[1:].isdigit() else first


def table_of(stage: str) -> Table | None:
    """The table that the rows of a stage belong to; None where they are nobody's (grades, judges of a jury)."""
    if stage in ("prompts", "held-out"):
        return "prompts"
    if stage in ("revise", "demonstrations"):
        return "revisions" if stage == "revise" else "demonstrations"
    if stage.startswith("evaluate-") or stage == "generate" or stage.endswith("-generate"):
        return "replies"
    if stage.startswith("compare-") or stage == "judge" or stage.endswith("-judge"):
        return "judgments"
    return "pairs" if stage == "pairs" or stage.endswith(("-pairs", "-replay")) else None


def _entry(
    id_: str,
    prompt: Mapping[str, Any],
    state: str,
    kind: str,
    *,
    texts: Any,
    main: str,
    models: Any,
    principles: Any = (),
    p: float | None = None,
    part: int = 0,
    digests: tuple[str, str] | None = None,
) -> Entry:
    one, two = digests or (main, None)
    return Entry(
        id=utf8(id_),
        part=part,
        prompt=utf8(prompt["id"]),
        source=utf8(prompt["source"]),
        tags=_names(tuple(prompt["tags"])),
        principles=_names(tuple(principles)),
        models=_names(tuple(models)),
        state=utf8(state),
        kind=utf8(kind),
        p=p,
        confidence=None if p is None else max(p, 1 - p),
        length=len(main),
        text=utf8("\n".join((id_, *texts)).lower()),
        one=fingerprint(one),
        two=0 if two is None else fingerprint(two),
    )


@functools.lru_cache(4096)
def _names(names: tuple[str, ...]) -> list[str]:
    """The few lists of names that rows have, each made once; nobody changes them."""
    return [utf8(name) for name in names]


def utf8(text: str) -> str:
    """A text as Parquet can carry it: lone surrogates replaced, NUL as well, which ends a text elsewhere."""
    if text.isascii():
        return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def fingerprint(text: str) -> int:
    """63 bits of a text, by which it is told from its other version."""
    body = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(body, "big") >> 1


def columns(entries: list[Entry]) -> dict[str, list[Any]]:
    """Entries as columns."""
    return dict(zip(Entry._fields, cast(Any, map(list, zip(*entries, strict=True))), strict=True))
