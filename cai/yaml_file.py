"""Reading a YAML file that anyone may have written: bounded work, and one error with its place.

PyYAML alone waits for a pipe, follows an alias that holds itself, recurses until Python gives up, lets a few
lines unfold to gigabytes, and fails with errors of a dozen types. Here size, depth and what aliases unfold to are
bounded, and whatever keeps a file from being read is one `Unreadable`. libyaml scans (ten times as fast).
"""

from __future__ import annotations

import bisect
import codecs
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml._yaml import CParser
from yaml.composer import Composer, ComposerError
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.resolver import Resolver

MOST_BYTES = 10_000_000  # a longer file is no constitution or config, and nothing to edit
MOST_UNFOLDED = 20_000_000  # characters, aliases unfolded; every value counts VALUE more
VALUE = 100
DEEPEST = 100  # levels; a constitution has eight, a config fewer
_BREAK = re.compile(r"\r\n|\r|\n")
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"  # as YAML 1.1 has it
)
_WORDS = {
    "mapping values are not allowed in this context": "a second ': ' in one line; put the text in quotes",
    "but found another document": "a second document ('---') begins here; write one {what} a file",
    "found unhashable key": "a key must be a text; write 'key: value'",
}


class Unreadable(Exception):
    """Why a file cannot be read, with the fix; `line` and `column` count from 1, in characters."""

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.line, self.column = line, column


class YamlFile(NamedTuple):
    """A file's text (without its byte order mark), its nodes, its content, and each further use of a key in a mapping.

    `repeated`: the key, and the index of the character where it stands again.
    """

    text: str
    node: yaml.Node | None = None
    data: Any = None
    repeated: tuple[tuple[str, int], ...] = ()


def read_yaml(path: Path, what: str = "constitution") -> YamlFile:
    """Read one file. `what`: the word for such a file in messages. Raises Unreadable."""
    return parse_yaml(read_text(path, what), what)


def read_text(path: Path, what: str = "constitution") -> str:
    """The text of a regular UTF-8 file of at most `MOST_BYTES`, line ends as they are. Raises Unreadable."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device, not a file"
            raise Unreadable(f"this is {kind}; give the path of a {what} file")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        problem = error.strerror or str(error)
        raise Unreadable(f"cannot be read ({problem}); give the path of a {what} file") from error
    except (ValueError, RuntimeError) as error:  # a NUL in the name, links in a circle
        raise Unreadable(f"cannot be read ({error}); give the path of a {what} file") from error
    if len(data) > MOST_BYTES:
        raise Unreadable(f"longer than {MOST_BYTES / 1e6:.0f} MB, which no {what} is; split the file")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise Unreadable("this is UTF-16; save the file as UTF-8")
    body = data.removeprefix(codecs.BOM_UTF8)
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        before = body[: error.start].decode()
        problem = f"byte {body[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise Unreadable(problem, *line_column(line_starts(before), len(before))) from error


def parse_yaml(text: str, what: str = "constitution") -> YamlFile:
    """Nodes and content of a YAML text with one document. Raises Unreadable."""
    starts = line_starts(text)
    if found := _UNPRINTABLE.search(text):
        problem = f"the character U+{ord(found[0]):04X} cannot stand in YAML; remove it"
        raise Unreadable(problem, *line_column(starts, found.start()))
    try:
        loader = _Loader(text, what)
        node = loader.get_single_node()
        if node is None:
            return YamlFile(text)
        repeated = tuple(
            _repeated_keys(node)
        )  # before the content is built, which puts merged keys among the own
        return YamlFile(text, node, loader.construct_document(node), repeated)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        index = mark.index if mark else 0
        problem = _problem(text, index, error.problem or error.context or "unknown", what)
        raise Unreadable(f"not valid YAML: {problem}", *line_column(starts, index)) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise Unreadable(f"not valid YAML: {str(error).splitlines()[0]}; mend the file") from error


def line_starts(text: str) -> list[int]:
    """Where each line starts, as editors count lines (YAML knows further line ends)."""
    return [0, *(found.end() for found in _BREAK.finditer(text))]


def line_column(starts: list[int], index: int) -> tuple[int, int]:
    """Line and column, from 1, of the character at `index`."""
    line = bisect.bisect_right(starts, index)
    return line, index - starts[line - 1] + 1


def key_of(node: yaml.ScalarNode) -> Any:
    """A key as the content has it: `no` is False there."""
    is_text = node.tag == "tag:yaml.org,2002:str"
    return node.value if is_text else SafeConstructor().construct_object(node)


def _repeated_keys(root: yaml.Node) -> Iterator[tuple[str, int]]:
    """Keys that a mapping holds twice, of which YAML would silently keep the last."""
    stack = [root]
    visited: set[int] = set()
    while stack:
        node = stack.pop()
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            names: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in names and key.value != "<<":
                        yield key.value, key.start_mark.index
                    names.add(key.value)
                stack.append(value)
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value


def _problem(text: str, index: int, problem: str, what: str) -> str:
    """What libyaml complains about, with a fix."""
    if text[index : index + 1] == "\t":
        return "a tab stands where YAML wants blanks; replace it by blanks"
    if "cannot start any token" in problem:
        return f"a text cannot begin with {text[index : index + 1]!r}; put it in quotes"
    if problem in _WORDS:
        return _WORDS[problem].format(what=what)
    return problem if "; " in problem else f"{problem}; mend the syntax here"


class _Loader(Composer, CParser, SafeConstructor, Resolver):
    """PyYAML's safe loader over libyaml's parser, with the bounds."""

    def __init__(self, text: str, what: str) -> None:
        CParser.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._what = what
        self._depth = self._unfolded = 0
        self._whole: dict[int, int] = {}  # size of every node with an anchor, once it is complete

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node with all below it."""
        event: Any = self.peek_event()
        mark: Any = event.start_mark
        before = self._unfolded
        self._depth += 1
        if self._depth > DEEPEST:
            raise ComposerError(None, None, f"nested deeper than {DEEPEST} levels; flatten it", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._whole:
                problem = f"*{event.anchor} stands within what it stands for; write it out"
                raise ComposerError(None, None, problem, mark)
            self._unfolded += self._whole[id(node)]
        else:
            self._unfolded += VALUE + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
            if event.anchor is not None:
                self._whole[id(node)] = self._unfolded - before
        if self._unfolded > MOST_UNFOLDED:
            alias = "with its aliases unfolded, " if self._whole else ""
            problem = f"{alias}the file holds more than any {self._what} does; shorten it"
            raise ComposerError(None, None, problem, mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; one that only looks like a number or a date is an error with its place."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"this looks like a value of type {kind}, and is none; put it in quotes"
            mark: Any = node.start_mark
            raise ConstructorError(None, None, problem, mark) from error
