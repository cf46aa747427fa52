"""A try in the terminal: each prompt with its reply, and what each version of the constitution made of it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.box import SQUARE
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cai.report.tables import plain
from cai.report.words import diff_text, shown
from cai.rows import RevisionRound
from cai.tryout.spent import spent_line
from cai.tryout.trial import Chain, Judged, Tried, Tryout


def print_tryout(found: Tryout, console: Console) -> None:
    """Everything that a try shows."""
    colours = console.is_terminal and not console.no_color
    for line in _head(found):
        console.print(line, soft_wrap=True, highlight=False)
    for number, tried in enumerate(found.prompts, 1):
        title = f"{number} of {len(found.prompts)}: {plain(tried.prompt.id)}"
        if tried.prompt.tags:
            title += f" ({plain(', '.join(tried.prompt.tags))})"
        console.print(Panel(Group(*_prompt(tried, colours)), title=title, title_align="left"))
    for line in _foot(found):
        console.print(line, soft_wrap=True, highlight=False)


def _head(found: Tryout) -> Iterator[str]:
    yield f"[bold]{plain(found.name)} {plain(found.version)}[/] ({plain(found.file)})"
    if found.previous is None:
        yield "no earlier version to compare with: edit the file and try again, or give --against"
    elif not found.changed:
        yield f"beside {plain(found.previous)}: the same to a run"
    else:
        yield f"beside {plain(found.previous)}; changed: {plain(', '.join(found.changed))}"


def _foot(found: Tryout) -> Iterator[str]:
    for name in found.unmet:
        yield f"no prompt here meets {plain(name)}; --principle {plain(name)} tries it alone"
    yield spent_line(found.calls, found.seconds)


def _prompt(tried: Tried, colours: bool) -> Iterator[RenderableType]:
    for turn in tried.prompt.messages:
        yield Text(f"{turn.role}: ", style="bold").append_text(shown(turn.content))
    if tried.reply is None:
        yield Text(f"no reply: {tried.lost}", style="yellow")
        return
    yield Text("reply: ", style="bold").append_text(shown(tried.reply))
    same = tried.previous is not None and _same(tried.previous, tried.new)
    if same:
        yield Text("both versions make the same of it", style="dim")
    chains = (tried.new,) if same else (tried.new, tried.previous)
    yield _chains(tried.reply, [chain for chain in chains if chain is not None], colours)


def _same(one: Chain, other: Chain | None) -> bool:
    """True where two versions show the same; a principle's digest, and the calls, are not shown."""

    def key(chain: Chain) -> list[object]:
        rounds = [(r.principle, r.critique, r.violated, r.revision) for r in chain.rounds]
        return [rounds, chain.state, chain.detail, chain.final, chain.judged]

    return other is not None and key(one) == key(other)


def _chains(reply: str, chains: list[Chain], colours: bool) -> Table:
    """A column a version, a row a step."""
    side_by_side = len(chains) > 1
    table = Table(expand=True, show_header=side_by_side, box=SQUARE if side_by_side else None)
    table.add_column("", no_wrap=True, style="bold")
    for title in ("new", "previous")[: len(chains)]:
        table.add_column(title, ratio=1, overflow="fold")
    for index in range(max((len(chain.rounds) for chain in chains), default=0)):
        rounds = [chain.rounds[index] if index < len(chain.rounds) else None for chain in chains]
        table.add_row(f"critique {index + 1}", *_told_once([_critique(done) for done in rounds]))
        if any(done is not None and done.revision is not None for done in rounds):
            cells = [_revision(chain, index, reply, colours) for chain in chains]
            table.add_row(f"revision {index + 1}", *_told_once(cells))
    table.add_row("outcome", *_told_once([_outcome(chain) for chain in chains]))
    if any(chain.judged for chain in chains):
        table.add_row("verdict", *_told_once([_verdicts(chain, colours, reply) for chain in chains]))
    return table


def _told_once(cells: list[Text]) -> list[Text]:
    """The cells of a row, the second one in short where it says the same."""
    same = len(cells) == 2 and cells[0].plain == cells[1].plain and cells[0].plain != ""
    return [cells[0], Text("the same", style="dim")] if same else cells


def _critique(done: RevisionRound | None) -> Text:
    if done is None:
        return Text("")
    word, style = ("breaks", "red") if done.violated else ("keeps", "green")
    text = shown(done.principle, "bold").append(": ").append(word, style=style)
    return text.append("\n").append_text(shown(done.critique))


def _revision(chain: Chain, index: int, reply: str, colours: bool) -> Text:
    """The revision of a round as a difference to the text that it was made from."""
    if index >= len(chain.rounds) or (revision := chain.rounds[index].revision) is None:
        return Text("")
    earlier = (done.revision for done in reversed(chain.rounds[:index]) if done.revision is not None)
    return diff_text(next(earlier, reply), revision, colours=colours)


def _outcome(chain: Chain) -> Text:
    text = shown(chain.state, "yellow" if chain.final is None else "")
    return text.append_text(shown(f": {chain.detail}")) if chain.detail else text


def _verdicts(chain: Chain, colours: bool, reply: str) -> Text:
    if not chain.judged:
        return Text("not judged", style="dim")
    return Text("\n").join(_verdict(judged, colours, reply) for judged in chain.judged)


def _verdict(judged: Judged, colours: bool, reply: str) -> Text:
    what = "revision" if judged.against == "revision" else "other reply"
    text = Text(f"{what} better: ")
    text.append("–" if judged.p is None else f"p {judged.p:.3f}", style="bold")
    text.append(f", {judged.state}", style="green" if judged.state == "labelled" else "yellow")
    if judged.principles:
        text.append_text(shown(f" by {', '.join(judged.principles)}"))
    if judged.against != "revision" and judged.other:
        text.append("\nother reply: ").append_text(diff_text(reply, judged.other, colours=colours))
    return text
