"""`cai constitution try`: an edit shown beside the version before it, at the price of what the edit changed."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.config_file import load_config
from cai.constitution import Constitution, Principle, load_constitution
from cai.pipeline import job_of, run_job
from cai.publish import write_prompts
from cai.report.words import diff_text, word_diff
from cai.runfolder.hold import start_run
from cai.serving import on_demand
from cai.tryout.scratch import freeze, reached
from tests.engine import Engine
from tests.small_cli import ROOT, cai, config_file, environment
from tests.wire import Answer, Fault, Json, asked_choices, echo, wire_server

pytestmark = pytest.mark.anyio
PRINCIPLES = {"kind": "Be kind.", "honest": "Be honest.", "brief": "Be brief."}
TOY = (ROOT / "constitutions" / "toy.yaml").read_text()


def write(
    folder: Path, name: str = "edited.yaml", extends: str | None = None, **principles: str | Json
) -> Path:
    """A constitution of PRINCIPLES with some replaced: by another statement, or with other fields too."""
    listed = [
        {"id": one, **(body if isinstance(body, dict) else {"statement": body})}
        for one, body in (PRINCIPLES | principles).items()
    ]
    head: dict[str, Any] = {"schema": 1, "name": "small", "version": "1"}
    path = folder / name
    save(path, json.dumps(head | ({"extends": [extends]} if extends else {"principles": listed})))
    return path


def save(path: Path, text: str) -> None:
    """Write a file as editors do: it is the old one or the new one, never half of it."""
    draft = path.with_name("draft.tmp")
    draft.write_text(text)
    draft.replace(path)


def obliging(body: Json) -> Answer:
    """Finds that every reply breaks its principle, and judges for the revision; texts name the principle."""
    shown = body["messages"][-1]["content"]
    principle = next(iter(re.findall(r"Principle: (.*)", shown)), "")
    if asked_choices(body):
        first = (re.findall(r"Mended|reply [0-9a-f]{16}", shown) or [""])[0] == "Mended"
        sure = {"A": 0.9, "B": 0.1} if first else {"A": 0.2, "B": 0.8}
        return Answer(max(sure, key=lambda name: sure[name]), sure)
    if "VERDICT" in shown:
        return Answer(f"Not so: {principle}\nVERDICT: breaks")
    return Answer(f"Mended by: {principle}") if principle else echo(body)


def asked_principles(bodies: list[Json]) -> list[str]:
    """The principle of each request that shows one, else an empty text."""
    found = [re.findall(r"Principle: (.*)", body["messages"][-1]["content"]) for body in bodies]
    return [names[0] if names else "" for names in found]


async def test_an_edit_is_shown_beside_the_version_before_it(tmp_path: Path) -> None:
    """First alone, then beside what was tried last; what the edit leaves alone is not asked again."""
    file = write(tmp_path)
    async with wire_server(obliging) as wire:
        config = config_file(tmp_path, wire.url)
        first = (await cai("constitution", "try", file, "--config", config, "--n", "4", "--json")).json
        assert first["previous"] is None and all(one["previous"] is None for one in first["prompts"])
        assert first["calls"]["made"] == wire.calls == 4 * (1 + 1 + 1 + 2)
        drawn = {one["new"]["rounds"][0]["principle"] for one in first["prompts"]}
        assert drawn == set(PRINCIPLES)  # every principle is new, and is met by a prompt
        write(tmp_path, kind="Be gentle.")
        before = wire.calls
        done = await cai("constitution", "try", file, "--config", config, "--n", "4", "--json")
        assert set(asked_principles(wire.requests[before:])) <= {"Be gentle.", "", *PRINCIPLES.values()}
    second = done.json
    assert second["changed"] == ["kind"] and second["unmet"] == []
    by_kind = [one for one in second["prompts"] if one["new"]["rounds"][0]["principle"] == "kind"]
    assert by_kind
    for one in by_kind:
        new, previous = one["new"], one["previous"]
        assert (new["rounds"][0]["critique"], new["final"]) == ("Not so: Be gentle.", "Mended by: Be gentle.")
        assert (previous["rounds"][0]["critique"], previous["final"]) == (
            "Not so: Be kind.",
            "Mended by: Be kind.",
        )
        assert new["judged"][0]["state"] == "labelled" and new["judged"][0]["p"] == pytest.approx(0.85)


async def test_a_try_again_asks_nothing(tmp_path: Path) -> None:
    """The same again, and an edit taken back, are answered by the journal: with the endpoint gone, or never started."""
    file = write(tmp_path)
    async with wire_server(obliging) as wire:
        config = config_file(tmp_path, wire.url)
        for kind in ("Be kind.", "Be gentle."):
            write(tmp_path, kind=kind)
            done = await cai("constitution", "try", file, "--config", config, "--prompt", "Hm?", "--json")
            assert done.status == 0, done.err
        calls = wire.calls
    again = (await cai("constitution", "try", file, "--config", config, "--prompt", "Hm?", "--json")).json
    assert (again["calls"]["made"], again["prompts"]) == (0, done.json["prompts"])
    write(tmp_path, kind="Be kind.")
    managed = ["--set", "models.toy.endpoint=null", "--set", "models.toy.managed={}"]
    back = await cai("constitution", "try", file, "--config", config, "--prompt", "Hm?", "--json", *managed)
    assert back.json["calls"]["made"] == 0 and "serving" not in back.err
    (one,), (before,) = back.json["prompts"], again["prompts"]
    assert (one["new"], one["previous"]) == (before["previous"], before["new"])
    assert calls > 0


async def test_against_a_file_and_a_principle_alone(tmp_path: Path) -> None:
    """--against names the other version; --principle makes it the one of every critique and judgment."""
    old, file = (
        write(tmp_path, "old.yaml"),
        write(tmp_path, brief={"statement": "Be short.", "applies_to": ["one"]}),
    )
    async with wire_server(obliging) as wire:
        config = config_file(tmp_path, wire.url)
        options: list[str | Path] = ["--config", config, "--against", old, "--principle", "brief", "--json"]
        found = (await cai("constitution", "try", file, *options)).json
        assert set(asked_principles(wire.requests)) == {"", "Be short.", "Be brief."}
        same = (await cai("constitution", "try", old, "--config", config, "--against", old, "--json")).json
        given = (await cai("constitution", "try", file, *options, "--prompt", "Hm?")).json
        write(tmp_path, novel="Be new.")
        options[options.index("brief")] = "novel"
        novel = (await cai("constitution", "try", file, *options, "--n", "1")).json
    assert novel["previous"] is None and novel["prompts"][0]["new"]["rounds"][0]["principle"] == "novel"
    assert len(found["prompts"]) == 3
    for one in found["prompts"]:
        assert one["prompt"]["tags"] == ["one"]  # the others do not meet it
        assert [version["rounds"][0]["principle"] for version in (one["new"], one["previous"])] == [
            "brief"
        ] * 2
        assert one["new"]["judged"][0]["principles"] == ["brief"]
    assert same["changed"] == [] and all(one["previous"] is None for one in same["prompts"])
    assert given["prompts"][0]["new"]["rounds"][0]["principle"] == "brief"


async def test_a_principle_for_judges_alone_is_shown_on_two_replies(tmp_path: Path) -> None:
    """Where no critique reads what was edited, two replies are compared by it."""
    judging = {"statement": "Be useful.", "use": ["judge"], "weight": 50.0}
    old = write(tmp_path, "old.yaml", brief=judging)
    file = write(tmp_path, brief={**judging, "statement": "Be of use."})
    async with wire_server(obliging) as wire:
        config = config_file(tmp_path, wire.url)
        done = await cai("constitution", "try", file, "--config", config, "--against", old, "--json")
        shown = await cai("constitution", "try", file, "--config", config, "--against", old)
    for one in done.json["prompts"]:
        assert [judged["against"] for judged in one["new"]["judged"]] == ["reply", "revision"]
        assert one["new"]["judged"][0]["principles"] == ["brief"]
    assert "other reply better: p " in shown.out and "other reply: " in shown.out


@asynccontextmanager
async def finished_run(folder: Path, url: str) -> AsyncIterator[tuple[Path, Path]]:
    """A run that has generated and revised, and its config's file."""
    policy = {"model": "toy", "n": 2, "sampling": {"max_tokens": 32}}
    path = config_file(folder, url, policy=policy, shards=3)
    config = load_config(path)
    async with on_demand(config) as models:
        with start_run(config):
            write_prompts(config)
            model = await models.model("toy")
            for stage, shard in itertools.product(("generate", "revise"), range(3)):
                await run_job(config, job_of(config, stage, shard, model.identity), model)
        yield config.root, path


async def test_a_run_gives_replies_config_and_previous_version(tmp_path: Path) -> None:
    """Replies are not asked again; the prompts are those where the run found the edited principle broken."""
    file = write(tmp_path)
    async with wire_server(obliging) as wire, finished_run(tmp_path, wire.url) as (run, path):
        write(tmp_path, honest="Never lie.")
        before = wire.calls
        done = await cai("constitution", "try", file, "--run", run, "--n", "3", "--json")
        assert done.status == 0, done.err
        assert "" not in asked_principles(wire.requests[before:])
        again = await cai("constitution", "try", file, "--run", run, "--n", "3", "--json")
        assert again.json["prompts"] == done.json["prompts"]
        last = done.json["prompts"][-1]["prompt"]["id"]
        alone = await cai("constitution", "try", file, "--run", run, "--row", last, "--json")
        assert alone.json["prompts"] == done.json["prompts"][-1:]
        nobody = await cai("constitution", "try", file, "--run", run, "--row", "nobody")
        assert nobody.status == 2 and "--row nobody: no prompt of" in nobody.err
    replies = {row["prompt"]["id"]: row["text"] for row in rows_of(run / "generate") if row["sample"] == 0}
    assert done.json["previous"] == f"the version of {run}" and done.json["changed"] == ["honest"]
    assert len(done.json["prompts"]) == 3
    for one in done.json["prompts"]:
        assert one["reply"] == replies[one["prompt"]["id"]]
        assert one["previous"]["rounds"][0]["critique"] == "Not so: Be honest."
        assert one["new"]["rounds"][0]["critique"] == "Not so: Never lie."
    assert path.is_file()


def rows_of(folder: Path) -> list[Any]:
    return [
        json.loads(line) for path in folder.glob("rows-*.jsonl") for line in path.read_text().splitlines()
    ]


def keeping(body: Json) -> Answer:
    return (
        Answer("All is well.\nVERDICT: keeps")
        if "VERDICT" in body["messages"][-1]["content"]
        else obliging(body)
    )


def rambling(body: Json) -> Answer:
    return Answer("Who knows?") if "VERDICT" in body["messages"][-1]["content"] else obliging(body)


def declining(body: Json) -> Answer:
    return Answer("No.", refused=True) if "VERDICT" in body["messages"][-1]["content"] else obliging(body)


def endless(body: Json) -> Answer:
    return (
        obliging(body)
        if "Principle: " in body["messages"][-1]["content"]
        else Answer("On and", finish="length")
    )


def biased(body: Json) -> Answer:
    return Answer("A", {"A": 0.9, "B": 0.1}) if asked_choices(body) else obliging(body)


def mumbling(body: Json) -> Answer:
    return Answer("Hmm.") if asked_choices(body) else obliging(body)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (keeping, "no violation found"),
        (rambling, "unparsed"),
        (declining, "refused"),
        (endless, "no reply: truncated"),
        (biased, "inconsistent"),
        (mumbling, "revision better: –, unparsed"),
    ],
)
async def test_what_went_another_way_is_told_by_name(
    tmp_path: Path, reply: Callable[[Json], Answer], told: str
) -> None:
    """No violation, an answer that cannot be read, a refusal, a lost reply, a biased judge: each in its words."""
    file = write(tmp_path)
    async with wire_server(reply) as wire:
        config = config_file(tmp_path, wire.url)
        done = await cai("constitution", "try", file, "--config", config, "--prompt", "Hm?")
    assert done.status == 0, done.err
    assert told in done.out


async def test_an_endpoint_in_trouble_is_one_line(tmp_path: Path) -> None:
    """Nothing listens, or nothing but errors comes: exit 1 or a named loss, and never a traceback."""
    file = write(tmp_path)
    config = config_file(tmp_path, "http://127.0.0.1:9")
    gone = await cai("constitution", "try", file, "--config", config)
    assert gone.status == 1 and gone.err.startswith("error: ") and len(gone.err.splitlines()) == 1
    async with wire_server(obliging, faults=lambda _: Fault(status=400)) as wire:
        config = config_file(tmp_path, wire.url)
        refused = await cai("constitution", "try", file, "--config", config, "--n", "1")
        no_text = await cai(
            "constitution", "try", file, "--config", config, "--prompt", "\udcff"
        )  # a byte, not UTF-8
    for done in (refused, no_text):
        assert done.status == 0 and "no reply: bad_request" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.yaml"], "none.yaml"),
        (["FILE", "--principle", "kinf"], "did you mean 'kind'?"),
        (["FILE", "--prompt", " "], "--prompt: is empty"),
        (["FILE", "--run", "none"], "--run none: not a run"),
        (["FILE", "--row", "p1"], "--row: is a prompt of a run"),
        (["FILE", "--against", "none.yaml"], "none.yaml"),
        (["FILE", "--set", "judge.treshold=1"], "did you mean 'threshold'?"),
    ],
)
async def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    """Value, place and fix, exit status 2, before anything is asked."""
    file = write(tmp_path)
    config = config_file(tmp_path, "http://127.0.0.1:9")
    given = [str(file) if one == "FILE" else one for one in arguments]
    more = [] if "--run" in given else ["--config", str(config)]
    done = await cai("constitution", "try", *given, *more)
    assert done.status == 2 and message in done.err and len(done.err.splitlines()) == 1, done.err


async def test_text_of_a_model_cannot_steer_the_terminal(tmp_path: Path) -> None:
    """Escape sequences are replaced, markup is shown as it is, and without colours the difference has marks."""
    file = write(tmp_path)

    def hostile(body: Json) -> Answer:
        return Answer("\x1b[31mred[/] [bold]loud[/bold]") if "Principle" not in str(body) else obliging(body)

    async with wire_server(hostile) as wire:
        config = config_file(tmp_path, wire.url)
        done = await cai(
            "constitution", "try", file, "--config", config, "--n", "1", "--prompt", "[red]\x9b?"
        )
        coloured = await cai(
            "constitution", "try", file, "--config", config, "--prompt", "[red]\x9b?", FORCE_COLOR="1"
        )
    assert (
        "\x1b" not in done.out and "\x9b" not in done.out and "\ufffd[31mred[/] [bold]loud[/bold]" in done.out
    )
    assert "[red]\ufffd?" in done.out
    assert "[-" in done.out and "{+Mended by: Be " in done.out
    assert "\x1b[" in coloured.out and "\x1b[31mred" not in coloured.out and "{+" not in coloured.out


@pytest.mark.slow
async def test_watching_shows_each_save_and_waits_on_a_broken_one(tmp_path: Path) -> None:
    """A save of the file, or of what it extends, is shown; a broken one is told with its place, and waited on."""
    base = write(tmp_path, "base.yaml")
    file = write(tmp_path, extends="base.yaml")
    async with wire_server(obliging) as wire:
        config = config_file(tmp_path, wire.url)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cai", "constitution", "try", str(file), "--config", str(config), "--prompt", "Hm?",
            "--principle", "kind", "--watch", "--json", cwd=ROOT, env=environment(),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        try:
            first = json.loads(await process.stdout.readline())
            assert b"watching" in await process.stderr.readline()
            write(tmp_path, "base.yaml", kind="Be gentle.")
            second = json.loads(await process.stdout.readline())
            save(base, base.read_text().replace('"statement"', '"statment"', 1))
            told = (await process.stderr.readline()).decode()
            write(tmp_path, "base.yaml", kind="Be mild.")
            third = json.loads(await process.stdout.readline())
            process.send_signal(2)
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
    assert "base.yaml:1:" in told and "did you mean 'statement'?" in told
    critiques = [one["prompts"][0]["new"]["rounds"][0]["critique"] for one in (first, second, third)]
    assert critiques == ["Not so: Be kind.", "Not so: Be gentle.", "Not so: Be mild."]
    assert third["prompts"][0]["previous"]["rounds"][0]["critique"] == "Not so: Be gentle."
    assert second["calls"]["made"] == third["calls"]["made"] == 4  # critique, revision, both orders


words = st.lists(
    st.sampled_from(["the", "zoo", "a", "b.", "[c]"]) | st.text(min_size=1, max_size=4), max_size=12
)


@given(words, words, st.sampled_from([" ", "\n", "  "]))
def test_a_difference_holds_both_texts(before: list[str], after: list[str], blank: str) -> None:
    """What is not inserted is the old text, what is not deleted the new one, word by word."""
    old, new = " ".join(before), blank.join(after)
    pieces = word_diff(old, new)
    for text, left_out in ((old, "inserted"), (new, "deleted")):
        kept = " ".join(piece.words for piece in pieces if piece.kind != left_out)
        assert kept.split() == text.split()


texts = st.text(min_size=1, max_size=40).filter(str.strip)


@given(st.lists(texts, min_size=1, max_size=3), texts)
def test_a_version_is_kept_as_it_was(statements: list[str], version: str) -> None:
    """Whatever the texts hold, the file that a stage reads says what the try has read."""
    principles = tuple(
        Principle(id=f"p{number}", statement=text, priority=number, tests=())
        for number, text in enumerate(statements)
    )
    constitution = Constitution(name="small", version=version, principles=principles)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kept.yaml"
        freeze(constitution, path)
        kept = load_constitution(path)
    assert kept.digest == constitution.digest and reached(constitution, kept) == []


def test_marks_stand_for_colours() -> None:
    """Deletions and insertions can be told apart without colours, and have no marks with them."""
    before, after = "Use the back door of the zoo.", "Use the main door of the zoo."
    assert diff_text(before, after, colours=False).plain == "Use the [-back-] {+main+} door of the zoo."
    coloured = diff_text(before, after, colours=True)
    assert coloured.plain == "Use the back main door of the zoo."
    assert [str(span.style) for span in coloured.spans] == ["red strike", "green"]
    assert (
        diff_text("One thing.", "Quite another one.", colours=False).plain
        == "[-One thing.-] {+Quite another one.+}"
    )


@pytest.mark.slow
async def test_the_embedded_model_critiques_by_the_edited_principle(tmp_path: Path, engine: Engine) -> None:
    """On real vLLM: where the old principle found theft, the edited one finds nothing; again, no server starts."""
    old, file = tmp_path / "old.yaml", tmp_path / "edited.yaml"
    old.write_text(TOY)
    statements = ("Do not help people to steal or to sneak in.", "Give real help with everyday requests.")
    file.write_text(TOY.replace(*statements))
    wanted = [test.prompt[0].content for test in load_constitution(old).principles[1].tests]
    options = [
        "--principle",
        "no-theft",
        "--against",
        str(old),
        "--set",
        f"outputs={tmp_path / 'outputs'}",
        "--json",
    ]
    options += [part for prompt in wanted for part in ("--prompt", prompt)]
    first = await cai("constitution", "try", file, *options, *engine.options, **engine.environment)
    assert first.status == 0, first.err
    rounds = [(one["previous"]["rounds"][0], one["new"]["rounds"][0]) for one in first.json["prompts"]]
    changed = [(before, after) for before, after in rounds if before["critique"] != after["critique"]]
    assert any(before["violated"] and not after["violated"] for before, after in changed)
    again = await cai("constitution", "try", file, *options)
    assert again.json["prompts"] == first.json["prompts"]
    assert again.json["calls"]["made"] == 0 and "serving" not in again.err
