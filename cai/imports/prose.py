"""A constitution in prose (Markdown): sections become draft principles, good and bad replies their tests.

A section's statement is its first sentence, to be condensed by hand from the prose that is kept beside it. Where
headings state a level of authority ({#id authority=user}), only the sections that have one, or tests, are
principles; else every section with text is, each item of a section that is a list, and without any heading
each paragraph.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from cai.constitution.lint import LONG_STATEMENT
from cai.constitution.principle import Principle, PrincipleTest
from cai.errors import ConstitutionError
from cai.imports.blocks import Block, read_block
from cai.imports.draft import Draft, Names, draft, made

PROSE = "markdown"
PRIORITY = {"root": 40, "platform": 30, "system": 30, "developer": 20, "user": 10, "guideline": 0}
_HEADING = re.compile(r"^#{1,6}[ \t]+(?P<title>.*)$")
_FENCE = re.compile(r"^ {0,3}(?P<fence>~{3,}|`{3,})")
_OPENING = re.compile(r"^(?P<fence>~{3,}+|`{3,}+)[^\n]*\n", re.MULTILINE)
_AFTER = re.compile(r"[ \t]*\n?")
_ITEM = re.compile(r"^(?:[-*+]|\d+[.)])[ \t]+", re.MULTILINE)
_SENTENCE = re.compile(r".+?[.!?][\"'”’)*_]*(?=\s+[\"'“‘(*_]?[A-Z0-9À-ÞΑ-Я]|\s*\Z)", re.DOTALL)
_NO_PROSE = re.compile(r"^(?:!!!|\*\*Example|\[\^|[-*+][ \t]|\d+[.)][ \t]|>|\||<|```|~~~| {4})")


class Section(NamedTuple):
    """A heading with the text up to the next one; `line` counts from 1."""

    title: str
    line: int
    authority: str | None
    text: str


def read_prose(text: Any) -> Draft:
    """Draft principles from Markdown or plain text. Raises ConstitutionError for an unknown level of authority."""
    sections = list(sections_of(text))
    levels = any(section.authority for section in sections)
    titled = any(section.title for section in sections)
    names, counts, found, judged = Names(), Counter[str](), [], 0
    for section in sections:
        prose, blocks = _without_blocks(section.text)
        tests = tuple(test for block in blocks for test in block.tests)
        counts.update(_counted(blocks))
        judged += sum(block.judged for block in blocks)
        if levels and not section.authority and not tests:
            counts["sections without a level of authority"] += bool(section.title or prose)
        elif not titled or (not levels and not tests and _is_list(prose)):
            found += [_principle(part, names, "") for part in _pieces(section)]
        elif prose or tests:
            found.append(_principle(section, names, prose, tests))
    drafted = draft(PROSE, found, None, counts)
    return drafted._replace(counts={"blocks with a good and a bad reply": judged} if judged else {})


def sections_of(text: str) -> Iterator[Section]:
    """The sections in order, first what stands before any heading; a heading inside a fence is none."""
    title, line, authority, fence = "", 1, None, ""
    body: list[str] = []
    for number, content in enumerate(re.split(r"\r?\n", text), 1):
        heading = None if fence else _HEADING.match(content)
        if heading:
            if title or "".join(body).strip():
                yield Section(title, line, authority, "\n".join(body))
            stated = heading["title"].rstrip(" \t").rstrip("#").rstrip(" \t")
            (title, authority), line, body = _title(stated, number), number, []
            continue
        mark = _FENCE.match(content)
        if mark and not fence:
            fence = mark["fence"]
        elif mark and mark["fence"].startswith(fence) and content.strip() == mark["fence"]:
            fence = ""
        body.append(content)
    if title or "".join(body).strip():
        yield Section(title, line, authority, "\n".join(body))


def _title(heading: str, line: int) -> tuple[str, str | None]:
    title, opened, inside = heading.removesuffix("}").rpartition("{")
    if not opened or not heading.endswith("}") or "}" in inside:
        return heading, None
    stated = re.search(r"\bauthority=[\"']?([\w-]+)", inside)
    level = stated[1].lower() if stated else None
    if level is not None and level not in PRIORITY:
        known = ", ".join(PRIORITY)
        raise ConstitutionError(f"line {line}: authority {level!r} is no known level; use one of {known}")
    return title.rstrip(" \t"), level


def _without_blocks(text: str) -> tuple[str, list[Block]]:
    """The text without the blocks that its tests hold completely; all blocks with marked replies."""
    blocks: list[Block] = []

    kept: list[str] = []
    place = 0
    while opening := _OPENING.search(text, place):
        start, end = opening.end(), text.find(f"\n{opening['fence']}", opening.end() - 1)
        if end < 0:
            break
        after = _AFTER.match(text, end + 1 + len(opening["fence"]))
        assert after is not None
        block = read_block(text[start : end + 1])
        if block is not None:
            blocks.append(block)
        whole = block is not None and not block.spare
        kept += [text[place : opening.start()], "[tests]\n" if whole else text[opening.start() : after.end()]]
        place = after.end()
    return "".join([*kept, text[place:]]).strip(), blocks


def _counted(blocks: list[Block]) -> dict[str, int]:
    return {
        "blocks of replies without a good and a bad one": sum(not block.judged for block in blocks),
        "good and bad replies that are not of one comparison": sum(
            block.judged and not block.tests for block in blocks
        ),
        "replies in no test (kept in the prose)": sum(block.spare for block in blocks),
        "notes on why a reply is good or bad": sum(block.notes for block in blocks),
    }


def _is_list(prose: str) -> bool:
    """Whether a section is a list of several items, with at most a paragraph before it."""
    paragraphs = [part for part in re.split(r"\n[ \t]*\n", prose) if part.strip()]
    plain = [part for part in paragraphs if not _ITEM.match(part) and not part.startswith((" ", "\t"))]
    return len(_ITEM.findall(prose)) > 1 and len(plain) <= 1 and plain == paragraphs[: len(plain)]


def _pieces(section: Section) -> Iterator[Section]:
    """The items of a list, or the paragraphs of a text, each with its line."""
    listed = _is_list(section.text.strip())
    first = section.line + bool(section.title)
    starts = [item.start() for item in _ITEM.finditer(section.text)] if listed else []
    if not listed:
        starts = [part.start() for part in re.finditer(r"(?:\A|(?<=\n\n))(?=[^\n])", section.text)]
    head = section.text[: starts[0]].strip() if starts else ""
    if head:
        yield Section("", first, None, head)
    line, counted = first, 0
    for start, end in zip(starts, [*starts[1:], len(section.text)], strict=True):
        line += section.text.count("\n", counted, start)
        counted = start
        content = (
            _ITEM.sub("", section.text[start:end], count=1).strip() if listed else section.text[start:end]
        )
        if content.strip():
            yield Section("", line, None, content.strip())


def _principle(
    section: Section, names: Names, prose: str, tests: tuple[PrincipleTest, ...] = ()
) -> Principle:
    statement = _statement(section, prose or section.text)
    level = f", authority {section.authority}" if section.authority else ""
    title = f": {section.title}" if section.title else ""
    return made(
        Principle, f"line {section.line}", id=names.new(section.title or statement, whole=bool(section.title)),
        statement=statement, priority=PRIORITY[section.authority] if section.authority else 0, tests=tests,
        source={
            "format": PROSE, "at": f"line {section.line}{level}{title}",
            "original": (prose or section.text) if statement != (prose or section.text) else None,
        },
    )  # fmt: skip


def _statement(section: Section, prose: str) -> str:
    """The title and the first sentence, as far as they are there and fit; else the text cut short."""
    title = section.title if not section.title or section.title[-1] in ".!?" else f"{section.title}."
    paragraphs = [part for part in re.split(r"\n[ \t]*\n", prose) if not _NO_PROSE.match(part)]
    plain = _plain(paragraphs[0]) if paragraphs else ""
    sentence = _SENTENCE.match(plain)
    whole = f"{title} {sentence[0] if sentence else plain}".strip()
    if len(whole) <= LONG_STATEMENT and whole:
        return whole
    return section.title or (_plain(prose)[: LONG_STATEMENT - 1] + "…")


def _plain(text: str) -> str:
    """Without footnote marks, links and line breaks."""
    text = re.sub(r"\[\^[^\[\]]*\]", "", text)
    text = re.sub(r"\[\?\]\(#([^)\n]{0,200})\)", lambda link: f'"{link[1].replace("_", " ")}"', text)
    text = re.sub(r"\[([^\[\]\n]*)\]\([^)\n]{0,2000}\)", lambda link: link[1], text)
    return " ".join(text.split())
