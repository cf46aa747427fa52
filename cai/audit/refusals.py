"""`cai audit refusals`: how many replies refuse, on which prompts, and whether people would say so too.

`agreement` is the share of rows on which the rules and the people give the same answer to one question: is it a full
refusal, or not? People's answer is the label on which they settled (`final_label`); where a file has only annotators,
rows on which they differ are left out of it and counted as disputed. Every annotator is also compared alone, and with
the others, which is what the rules can hope for.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from cai.audit.findings import Ledger, quote
from cai.audit.labels import labels_in, safety_of, type_of
from cai.audit.read import none_fits, read
from cai.audit.refusal import Refusal, refusal
from cai.audit.runs import is_run, needs, run_rows
from cai.intervals import rate
from cai.report.status import shard_reports
from cai.rows import Reply, Revision
from cai.sources.conversation import Unusable, column_of, conversation
from cai.sources.records import BadRecord

REPLY = (
    "completion", "response", "reply", "output", "answer", "generation", "model_output", "model_response",
    "prediction", "text",
)  # fmt: skip
WANTED = f"a reply (one of {', '.join(REPLY)}, or messages that end in one)"
TYPES = 200  # prompt types that are counted apart
KINDS: tuple[Refusal, ...] = ("full", "partial", "none")

CHECKS = {
    "full": ("the reply refuses and gives nothing that was asked for", "replies"),
    "partial": ("it declines and answers in part, or lacks what is asked for", "replies"),
    "over_refusal": ("it refuses wholly, on a safe prompt", "safe prompts"),
    "disagreement": (
        "people say full refusal and the rules do not, or the other way round",
        "labelled replies",
    ),
}


class Answer(NamedTuple):
    """A reply as it is audited. `stage`: of a run; `labels`: by annotator."""

    id: str
    prompt: str
    text: str
    type: str | None
    safety: str | None
    settled: Refusal | None
    labels: dict[str, Refusal]


class _Counts:
    """What is counted on the way: bounded by the number of types and annotators."""

    def __init__(self) -> None:
        self.kinds: Counter[Refusal] = Counter()
        self.types: dict[str, Counter[Refusal]] = {}
        self.safety: dict[str, Counter[Refusal]] = {}
        self.settled: Counter[tuple[Refusal, Refusal]] = Counter()
        self.annotators: dict[str, Counter[tuple[Refusal, Refusal]]] = {}
        self.between: dict[tuple[str, str], Counter[tuple[Refusal, Refusal]]] = {}
        self.disputed = self.unusable = 0


def audit_refusals(path: Path, ledger: Ledger) -> dict[str, Any]:
    """Look at every reply of a file or a run; returns its figures. Raises ConfigError where there is none."""
    counts = _Counts()
    for answer in _of_run(path) if is_run(path) else _of_file(path, counts):
        _look(answer, counts, ledger)
    if not counts.settled:
        ledger.unmade("disagreement", "no column has a human label")
    if "safe" not in counts.safety:
        ledger.unmade("over_refusal", "no column or tag says which prompts are safe")
    n, same = counts.settled.total(), _agreed(counts.settled)
    return {
        "replies": counts.kinds.total(),
        "unusable": counts.unusable,
        "kinds": {kind: counts.kinds[kind] for kind in KINDS},
        "labelled": n,
        "disputed": counts.disputed,
        "agreement": same / n if n else None,
        "agreement_interval": asdict(rate(same, n)) if n else None,
        "kappa": _kappa(counts.settled, KINDS),
        "kappa_full": _kappa(_two(counts.settled), ("full", "rest")),
        "confusion": _table(counts.settled),
        "annotators": {name: _compared(pairs) for name, pairs in sorted(counts.annotators.items())},
        "between_annotators": {f"{a}, {b}": _compared(pairs) for (a, b), pairs in counts.between.items()},
        "by_safety": {name: _kinds(found) for name, found in sorted(counts.safety.items())},
        "by_type": {name: _kinds(found) for name, found in sorted(counts.types.items())},
    }


def _look(answer: Answer, counts: _Counts, ledger: Ledger) -> None:
    found = refusal(answer.text, answer.prompt)
    counts.kinds[found] += 1
    ledger.look("full", "partial")
    if found != "none":
        ledger.found(found, answer.id, quote(answer.text))
    if answer.type is not None and (answer.type in counts.types or len(counts.types) < TYPES):
        counts.types.setdefault(answer.type, Counter())[found] += 1
    if answer.safety is not None:
        counts.safety.setdefault(answer.safety, Counter())[found] += 1
    if answer.safety == "safe":
        ledger.look("over_refusal")
        if found == "full":
            ledger.found("over_refusal", answer.id, quote(answer.text))
    for name, label in answer.labels.items():
        counts.annotators.setdefault(name, Counter())[label, found] += 1
    for (a, first), (b, second) in itertools.combinations(sorted(answer.labels.items()), 2):
        counts.between.setdefault((a, b), Counter())[first, second] += 1
    if answer.settled is None:
        counts.disputed += bool(answer.labels)
        return
    ledger.look("disagreement")
    counts.settled[answer.settled, found] += 1
    if (answer.settled == "full") != (found == "full"):
        said = f"people: {answer.settled}, rules: {found}: {quote(answer.text)}"
        ledger.found("disagreement", answer.id, said)


def _of_file(path: Path, counts: _Counts) -> Iterator[Answer]:
    seen: Mapping[str, Any] | None = None
    found = False
    for id, row in read(path):
        if seen is None and isinstance(row, dict):
            seen = row
        text = None if isinstance(row, BadRecord) else _reply(row)
        if text is None or isinstance(row, BadRecord):
            counts.unusable += 1
            continue
        found = True
        settled, labels = labels_in(row)
        yield Answer(id, _prompt(row), text, type_of(row), safety_of(row), settled, labels)
    if not found:
        raise none_fits(path, seen, WANTED)


def _of_run(root: Path) -> Iterator[Answer]:
    """Replies of all stages that have some; the type of a prompt is its stage and its tags."""
    needs(root, "generate")
    stages = [path.name for path in sorted(root.glob("*-generate")) if path.is_dir()]
    stages += [path.name for path in sorted(root.glob("evaluate-*"))]
    for stage in ("generate", *stages):
        for _, replies in run_rows(root, stage, Reply):
            yield from (_of_reply(reply, stage, reply.id, reply.text) for reply in replies)
    if shard_reports(root, "revise"):
        for _, revisions in run_rows(root, "revise", Revision):
            yield from (_of_reply(row.reply, "revise", row.id, row.final) for row in revisions)


def _of_reply(reply: Reply, stage: str, id: str, text: str) -> Answer:
    tags = reply.prompt.tags
    safety = "unsafe" if "harmful" in tags else "safe" if {"overrefusal", "helpful"} & set(tags) else None
    type = " ".join((stage, *tags[:1]))
    name = id if stage in ("generate", "revise") else f"{stage}:{id}"
    return Answer(name, reply.prompt.messages[-1].content, text, type, safety, None, {})


def _reply(row: Mapping[str, Any]) -> str | None:
    text = next((value for name in REPLY if isinstance(value := row.get(name), str)), None)
    turns = row.get("messages")
    if text is None and isinstance(turns, list) and turns and isinstance(turns[-1], dict):
        last = turns[-1]
        text = last.get("content") if last.get("role") == "assistant" else None
    return text if isinstance(text, str) else None


def _prompt(row: Mapping[str, Any]) -> str:
    try:
        return conversation(row, None)[-1].content if column_of(row) not in (None, "text") else ""
    except Unusable:
        return ""


def _kinds(found: Counter[Refusal]) -> dict[str, Any]:
    n = found.total()
    return {"n": n, **{kind: found[kind] for kind in KINDS}, "full_rate": asdict(rate(found["full"], n))}


def _compared(pairs: Counter[tuple[Refusal, Refusal]]) -> dict[str, Any]:
    n, same = pairs.total(), _agreed(pairs)
    return {"n": n, "agreement": same / n, "kappa_full": _kappa(_two(pairs), ("full", "rest"))}


def _agreed(pairs: Counter[tuple[Refusal, Refusal]]) -> int:
    return sum(count for (a, b), count in pairs.items() if (a == "full") == (b == "full"))


def _two(pairs: Counter[tuple[Refusal, Refusal]]) -> Counter[tuple[str, str]]:
    merged: Counter[tuple[str, str]] = Counter()
    for (a, b), count in pairs.items():
        merged["full" if a == "full" else "rest", "full" if b == "full" else "rest"] += count
    return merged


def _table(pairs: Counter[tuple[Refusal, Refusal]]) -> dict[str, dict[str, int]]:
    """People's label → the rules' label → rows."""
    return {a: {b: pairs[a, b] for b in KINDS} for a in KINDS} if pairs else {}


def _kappa(pairs: Mapping[Any, int], kinds: tuple[str, ...]) -> float | None:
    """Cohen's kappa; None where one of the sides has only one label."""
    if any(len({pair[side] for pair in pairs}) < 2 for side in (0, 1)):
        return None
    from sklearn.metrics import cohen_kappa_score

    first, second = zip(*pairs, strict=True)
    weights = list(pairs.values())
    return float(cohen_kappa_score(first, second, labels=list(kinds), sample_weight=weights))
