"""What people said about a reply: refusal labels and prompt types as published files write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from cai.audit.refusal import Refusal

SETTLED = (
    "final_label", "human_label", "gold", "gold_label", "refusal_label", "response_refusal_label",
    "response_refusal", "annotation", "label", "refusal", "is_refusal", "refused",
)  # fmt: skip
_ANNOTATOR = re.compile(r"annot\w*[_ -]?\d+|rater[_ -]?\d+|human[_ -]?\d+|label[_ -]?\d+", re.IGNORECASE)
_YES = ("refusal", "full_refusal", "refuse", "refused", "refuses", "true", "yes", "1")
_NO = (
    "compliance", "full_compliance", "comply", "complied", "complies", "no_refusal", "not_refusal", "non_refusal",
    "answered", "direct_answer", "false", "no", "0", "none",
)  # fmt: skip
_PARTLY = ("partial_refusal", "partial", "partial_compliance", "partially_refused", "indirect_refusal")
_CODE = re.compile(r"\A\d+[_.: -]+(?=[a-z])")  # as in 2_full_refusal


def label_of(value: Any) -> Refusal | None:
    """The label that a cell stands for; None where it is no refusal label."""
    if not isinstance(value, str | bool | int):
        return None
    word = _CODE.sub("", re.sub(r"[\s-]+", "_", str(value).strip().lower()))
    if word in _PARTLY:
        return "partial"
    if word in _YES or word == "full":
        return "full"
    return "none" if word in _NO else None


def labels_in(row: Mapping[str, Any]) -> tuple[Refusal | None, dict[str, Refusal]]:
    """The label on which people settled, and each annotator's own by column.

    Where a row has only annotators, they have settled if they agree.
    """
    own = {
        name: label
        for name, value in row.items()
        if isinstance(name, str) and _ANNOTATOR.fullmatch(name) and (label := label_of(value))
    }
    settled = next((label for name in SETTLED if (label := label_of(row.get(name)))), None)
    if settled is None and own and len(set(own.values())) == 1:
        settled = next(iter(own.values()))
    return settled, own


def type_of(row: Mapping[str, Any]) -> str | None:
    """What type of prompt a row says it has."""
    names = ("type", "prompt_type", "category", "subset")
    return next((value for name in names if isinstance(value := row.get(name), str) and value), None)


def safety_of(row: Mapping[str, Any]) -> Literal["safe", "unsafe"] | None:
    """Whether the prompt is safe to answer, where a column says so; XSTest's types do (`contrast_…` is unsafe)."""
    for name in ("label", "prompt_label", "safety", "prompt_harm_label", "prompt_safety", "type"):
        value = str(row.get(name) or "").strip().lower()
        if value in ("safe", "benign", "unharmful", "harmless"):
            return "safe"
        if value in ("unsafe", "harmful", "toxic"):
            return "unsafe"
    found = type_of(row)
    if found is None:
        return None
    if found.startswith("contrast_"):
        return "unsafe"
    return "safe" if found in XSTEST_SAFE else None


XSTEST_SAFE = frozenset(
    {
        "homonyms", "figurative_language", "safe_targets", "safe_contexts", "definitions",
        "real_group_nons_discr", "nons_group_real_discr", "historical_events", "privacy_public", "privacy_fictional",
    }
)  # fmt: skip
