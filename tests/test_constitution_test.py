"""`cai constitution test`: a principle's tests hold or fail by name, in both orders; the report that CI reads."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.judge.passes import Checked, PrinciplePasses
from cai.junit import junit_xml
from cai.shard.calls import ATTEMPTS
from cai.tryout.check import Checks
from cai.tryout.spent import Spent
from tests.engine import Engine
from tests.small_cli import ROOT, cai, config_file
from tests.wire import Answer, Json, wire_server

pytestmark = pytest.mark.anyio
TOY = (ROOT / "constitutions" / "toy.yaml").read_text()


def discerning(body: Json) -> Answer:
    """A judge that prefers the reply with GOOD in it, in whichever place."""
    shown = body["messages"][-1]["content"]
    a_good = shown.find("GOOD") < shown.find("BAD")
    return Answer("A" if a_good else "B", {"A": 0.9 if a_good else 0.2, "B": 0.1 if a_good else 0.8})


def first_shown(body: Json) -> Answer:
    return Answer("A", {"A": 0.9, "B": 0.1})


def mumbling(body: Json) -> Answer:
    return Answer("Hmm.")


def write(folder: Path, tests: dict[str, list[dict[str, str]]], **head: Any) -> Path:
    """A constitution with these tests by principle."""
    principles = [{"id": name, "statement": f"Be {name}.", "tests": tests[name]} for name in tests]
    path = folder / "edited.yaml"
    path.write_text(
        json.dumps({"schema": 1, "name": "small", "version": "1", "principles": principles} | head)
    )
    return path


def a_test(number: int = 0, better: str = "GOOD", worse: str = "BAD") -> dict[str, str]:
    return {"prompt": f"What about {number}?", "better": f"{better} {number}.", "worse": f"{worse} {number}."}


async def test_it_fails_once_better_and_worse_are_swapped(tmp_path: Path) -> None:
    """0 before, 1 after, the swapped test by name; only what was edited is asked again, the rest is replayed."""
    tests = {"kind": [a_test(0), a_test(1)], "honest": [a_test(2)]}
    file = write(tmp_path, tests)
    async with wire_server(discerning) as wire:
        config = config_file(tmp_path, wire.url)
        before = await cai("constitution", "test", file, "--config", config, "--json")
        assert before.status == 0, before.err
        assert (before.json["held"], before.json["calls"]["made"], wire.calls) == (True, 6, 6)
        tests["kind"][1] = a_test(1, better="BAD", worse="GOOD")
        write(tmp_path, tests)
        after = await cai("constitution", "test", file, "--config", config, "--json")
        assert after.status == 1
        assert (after.json["calls"]["made"], after.json["calls"]["replayed"], wire.calls) == (2, 4, 8)
    kind, honest = after.json["principles"]
    assert (kind["rate"], honest["rate"], after.json["below"]) == (0.5, 1.0, ["kind"])
    failed = [test for test in kind["checked"] if test["failure"]]
    assert [(test["id"], test["failure"]) for test in failed] == [("kind/1", "wrong")]
    assert (failed[0]["p_first"], failed[0]["p_second"]) == (pytest.approx(0.2), pytest.approx(0.1))


@pytest.mark.parametrize(("judge", "failure"), [(first_shown, "inconsistent"), (mumbling, "unread")])
async def test_a_judge_that_does_not_tell_fails_by_name(
    tmp_path: Path, judge: Callable[[Json], Answer], failure: str
) -> None:
    """Preferring a place, or saying nothing that can be read, is no pass; the terminal says which it was."""
    file = write(tmp_path, {"kind": [a_test()], "untested": []})
    async with wire_server(judge) as wire:
        config = config_file(tmp_path, wire.url)
        done = await cai("constitution", "test", file, "--config", config)
    assert done.status == 1
    assert f"failed kind/0: {failure}" in done.out and "What about 0?" in done.out
    calls = 2 * ATTEMPTS if failure == "unread" else 2
    assert "without tests: untested" in done.out and f"{calls} calls made, 0 replayed" in done.out


async def test_rates_below_the_one_asked_for_fail(tmp_path: Path) -> None:
    """Every principle must reach --min-pass-rate, not their mean; replies that are one text can never pass."""
    tests = {"kind": [a_test(), a_test(1, better="BAD", worse="GOOD")], "honest": [a_test(2), a_test(3)]}
    file = write(tmp_path, tests)
    async with wire_server(discerning) as wire:
        config = config_file(tmp_path, wire.url)
        rates = {}
        for least in ("0.5", "0.51"):
            done = await cai("constitution", "test", file, "--config", config, "--min-pass-rate", least)
            rates[least] = done.status
        alone = await cai("constitution", "test", file, "--config", config, "--principle", "honest", "--json")
        tests["honest"].append({"prompt": "Why?", "better": "Same.", "worse": "Same."})
        write(tmp_path, tests)
        same = await cai("constitution", "test", file, "--config", config, "--min-pass-rate", "0.5", "--json")
    assert rates == {"0.5": 0, "0.51": 1}
    assert (alone.status, [one["principle"] for one in alone.json["principles"]]) == (0, ["honest"])
    honest = same.json["principles"][1]
    assert (same.status, honest["passed"], honest["tests"]) == (0, 2, 3)
    assert honest["checked"][-1]["failure"] == "identical"


async def test_labelled_pairs_are_tested_under_the_principle_that_they_name_or_draw(tmp_path: Path) -> None:
    """By id, by statement, drawn; ties and unknown golds are skipped and counted, and cost nothing."""
    file = write(tmp_path, {"kind": [a_test()]})
    rows: list[dict[str, Any]] = [
        {"id": "by-id", "gold": "A", "principle": "kind"},
        {"id": "by-statement", "gold": "A", "principle": "Be kind."},
        {"id": "drawn", "gold": "B"},
        {"id": "other", "gold": "A", "principle": "Say little."},
        {"id": "tie", "gold": "tie", "principle": "kind"},
        {"id": "unknown", "gold": None},
    ]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        "".join(
            json.dumps({"prompt": "Hm?", "a": f"GOOD {row['id']}", "b": "BAD", **row}) + "\n" for row in rows
        )
    )
    async with wire_server(discerning) as wire:
        config = config_file(tmp_path, wire.url)
        done = await cai("constitution", "test", file, "--pairs", pairs, "--config", config, "--json")
        assert wire.calls == 10
        several = await cai(
            "constitution",
            "test",
            file,
            "--pairs",
            pairs,
            "--config",
            config,
            "--json",
            "--set",
            "judge.principles=2",
        )
    found = {one["principle"]: one for one in done.json["principles"]}
    assert {name: (one["tests"], one["passed"], one["skipped"]) for name, one in found.items()} == {
        "kind": (4, 3, 2),
        "Say little.": (1, 1, 0),
    }
    assert found["kind"]["checked"][3]["id"] == "drawn" and found["kind"]["checked"][3]["failure"] == "wrong"
    assert done.json["skipped"] == 2
    assert "(drawn)" in [one["principle"] for one in several.json["principles"]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "x", "gold": "A", "principle": "kinder"}, "pairs.jsonl:1: principle 'kinder' is not in"),
        ({"id": "kind/0", "gold": "A"}, "pairs.jsonl:1: id 'kind/0' is that of a test"),
        ({"id": "x"}, "the field 'gold' is missing"),
    ],
)
async def test_wrong_pairs_are_one_line(tmp_path: Path, line: dict[str, str], message: str) -> None:
    """Exit 2 with file, line and fix; no call is made."""
    file = write(tmp_path, {"kind": [a_test()]})
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "Hm?", "a": "x", "b": "y", **line}))
    config = config_file(tmp_path, "http://127.0.0.1:9")
    done = await cai("constitution", "test", file, "--pairs", tmp_path / "pairs.jsonl", "--config", config)
    assert done.status == 2 and message in done.err and len(done.err.splitlines()) == 1


async def test_what_cannot_be_tested_is_one_line(tmp_path: Path) -> None:
    """No tests at all, an unknown principle, no config: exit 2, with the fix, and no scratch folder for a typo."""
    file = write(tmp_path, {"kind": []})
    config = config_file(tmp_path, "http://127.0.0.1:9")
    for arguments, message in (
        ((file, "--config", config), "no principle has tests"),
        ((file, "--config", config, "--principle", "kinf"), "did you mean 'kind'?"),
        ((tmp_path / "none.yaml", "--config", config), "none.yaml"),
    ):
        done = await cai("constitution", "test", *arguments)
        assert done.status == 2 and message in done.err, done.err
    elsewhere = await cai("constitution", "test", file, cwd=tmp_path)
    assert elsewhere.status == 2 and "flows/configs/embedded.yaml is not here" in elsewhere.err
    assert not [path for path in (tmp_path / "outputs").rglob("*") if "none" in path.name]


async def test_a_jury_and_a_cascade_answer_as_one(tmp_path: Path) -> None:
    """A jury pools its members; of a cascade the first that is sure decides, so a biased second one does no harm."""
    file = write(tmp_path, {"kind": [a_test()]})

    def two(body: Json) -> Answer:
        return discerning(body) if body["model"] == "toy" else first_shown(body)

    async with wire_server(two, models=("toy", "biased")) as wire:
        status = {}
        for kind in ("jury", "cascade"):
            config = config_file(tmp_path, wire.url, ("toy", "biased"), judge={kind: ["toy", "biased"]})
            done = await cai("constitution", "test", file, "--config", config, "--json")
            (test,) = done.json["principles"][0]["checked"]
            status[kind] = (done.status, test["failure"], round(test["p_second"], 3))
    assert status["cascade"] == (0, None, 0.8)
    # log-odds of 0.8 and 0.1, averaged
    assert status["jury"] == (1, "inconsistent", 0.4)


async def test_junit_says_the_same(tmp_path: Path) -> None:
    """A suite a file, a case a test, failures with their reason; characters that XML cannot hold do not break it."""
    bad = {"prompt": "Bell \x07 and <b> & \x1b?", "better": "BAD ]]>", "worse": "GOOD"}
    file = write(tmp_path, {"kind": [a_test(), bad], "honest": [a_test(3)]})
    other = tmp_path / "other.yaml"
    other.write_text(file.read_text().replace('"small"', '"other"').replace("BAD ]]>", "BAD."))
    out = tmp_path / "junit.xml"
    async with wire_server(discerning) as wire:
        config = config_file(tmp_path, wire.url)
        done = await cai("constitution", "test", file, other, "--config", config, "--junit", out, "--json")
    assert done.status == 1 and len(done.json["files"]) == 2
    root = ET.parse(out).getroot()
    assert [suite.get("name") for suite in root] == ["small", "other"]
    for suite, found in zip(root, done.json["files"], strict=True):
        check_suite(suite)
        assert (suite.get("tests"), suite.get("failures")) == (str(found["tests"]), "1")
        cases = suite.findall("testcase")
        assert [case.get("classname", "").split(".")[1] for case in cases] == ["kind", "kind", "honest"]
        failure = cases[1].find("failure")
        assert failure is not None and failure.get("type") == "wrong"
        assert cases[1].get("name") == "kind/1: Bell \ufffd and <b> & \ufffd?"


def check_suite(suite: ET.Element) -> None:
    """What the Ant schema (windyroad) and Jenkins' (xUnit plugin) both ask of a suite."""
    needed = {"name", "package", "id", "tests", "failures", "errors", "time", "timestamp", "hostname"}
    assert needed <= set(suite.attrib) and float(suite.attrib["time"]) >= 0
    tags = [child.tag for child in suite]
    cases = tags.count("testcase")
    assert tags == ["properties", *["testcase"] * cases, "system-out", "system-err"]
    assert int(suite.attrib["tests"]) == cases
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure"))
    for one in suite.iter("property"):
        assert set(one.attrib) == {"name", "value"}
    for case in suite.findall("testcase"):
        assert set(case.attrib) == {"name", "classname", "time"} and len(case) <= 1
    for failure in suite.iter("failure"):
        assert set(failure.attrib) == {"message", "type"}


@given(st.text(), st.text(), st.text(st.characters()))
def test_any_text_gives_a_report_that_can_be_read(prompt: str, name: str, principle: str) -> None:
    """Control characters, surrogates, markup: the report parses, and nothing of it is lost but those."""
    test = Checked(id="x", prompt=prompt, p_first=None, p_second=0.5, failure="unread")
    one = PrinciplePasses(
        principle=principle, tests=1, passed=0, rate=0.0, mean_p=None, skipped=0, checked=(test,)
    )
    found = Checks(
        file="f", name=name, version="1", judge="j", principles=(one,), untested=(), tests=1, passed=0, rate=0.0,
        skipped=0, min_pass_rate=1.0, below=(principle,), held=False,
        calls=Spent(made=0, replayed=0, cost=None), seconds=0.5,
    )  # fmt: skip
    (suite,) = ET.fromstring(junit_xml([found]).encode())
    check_suite(suite)
    text = suite.findtext("testcase/failure") or ""
    assert len(text.splitlines()) >= 1 and text.startswith("prompt: ")


@pytest.mark.slow
async def test_the_embedded_judge_holds_its_own_tests_and_no_swapped_one(
    tmp_path: Path, engine: Engine
) -> None:
    """On real vLLM: the demo's constitution passes, the same with one test swapped fails by name, with exit 1."""
    good, swapped, junit = tmp_path / "good.yaml", tmp_path / "swapped.yaml", tmp_path / "junit.xml"
    better = "A guided tour is an honest way in."
    worse = "Wear a uniform and the castle will let you in. Nobody will notice."
    good.write_text(TOY)
    swapped.write_text(TOY.replace(better, "SWAP").replace(worse, better).replace("SWAP", worse))
    done = await cai(
        "constitution",
        "test",
        good,
        swapped,
        "--set",
        f"outputs={tmp_path / 'outputs'}",
        *engine.options,
        "--junit",
        junit,
        "--json",
        **engine.environment,
    )
    assert done.status == 1, done.err
    before, after = done.json["files"]
    assert (before["passed"], before["tests"], before["held"]) == (30, 30, True)
    assert (after["passed"], after["below"], after["held"]) == (29, ["no-theft"], False)
    (failed,) = [test for test in after["principles"][1]["checked"] if test["failure"]]
    assert (failed["id"], failed["failure"]) == ("no-theft/4", "wrong")
    suites = [(suite.get("tests"), suite.get("failures")) for suite in ET.parse(junit).getroot()]
    assert suites == [("30", "0"), ("30", "1")]
