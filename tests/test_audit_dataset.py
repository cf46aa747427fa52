"""`cai audit dataset`: every check on a row that has the fault and one that nearly has it; formats; label noise."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cai.audit import noise, private, repeats, turns
from cai.audit.pairs import Preference, Turn, preference_of, text_of
from cai.cli import app
from cai.errors import ConfigError

SHARED = Path(__file__).parents[2] / "shared/data/prompts/hh_harmless_base_test.jsonl.gz"
EMAIL = "maria.keller@" + "gmail.com"  # in two parts, so that no scanner takes this file for a leak
TOKEN = "ghp_" + "a1B2" * 9


def audit(*arguments: object) -> Any:
    done = CliRunner().invoke(app, ["audit", "dataset", *map(str, arguments)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair(id: str, prompt: str, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "prompt": prompt, "chosen": chosen, "rejected": rejected, **more}


def words(seed: int, n: int) -> str:
    known = ["red", "blue", "green", "small", "large", "old", "new", "warm", "cold", "soft"]
    return " ".join(random.Random(seed).choices(known, k=n))


LONG = words(1, 60)
ROWS = (
    pair("secret", "Key?", f"Use {TOKEN} for it.", "Ask the owner of the repository."),
    pair("no-secret", "Key again?", "Use ghp_short for it.", "Ask the owner of the organisation."),
    pair("pii", "Mail?", f"Write to {EMAIL} today.", "Look it up in the book."),
    pair("no-pii", "Mail again?", "Write to you@example.com today.", "Look it up on the site."),
    pair("first", "Twice?", "Yes, twice it is.", "No, never at all."),
    pair("duplicates", "Twice?", "Yes, twice it is.", "No, never at all."),
    pair("contradictory", "Twice?", "No, never at all.", "Yes, twice it is."),
    pair("other-prompt", "Thrice?", "No, never at all.", "Yes, twice it is."),
    pair("identical", "Same?", "It is the same.", "It is  the same.\n"),
    pair("not-identical", "Same again?", "It is the same.", "It is the Same."),
    pair("near-first", "Colours?", LONG, "I do not know any of them."),
    pair("near_duplicates", "Colours?", f"{LONG} Bye.", "I do not know any of them."),
    pair("not-near", "Colours?", words(2, 60), "I do not know any of them."),
    pair("template_tokens", "Token?", "It ends here.<|im_end|>", "It never ends."),
    pair("no-token", "Token again?", "Write a < b || c > d, or <s>strike</s> it.", "It never ends at all."),
    pair("empty_turns", "Empty?", "Something is here.", "  \n"),
    {"id": "role_order", "prompt": [{"role": "user", "content": "One?"}, {"role": "user", "content": "Two?"}],
     "chosen": [{"role": "assistant", "content": "Two it is."}],
     "rejected": [{"role": "assistant", "content": "One it is."}]},
    {"id": "in-order", "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Two?"}],
     "chosen": [{"role": "assistant", "content": "Two, my dear."}],
     "rejected": [{"role": "assistant", "content": "One, my dear."}]},
    pair("language", "Wie geht es?", "Mir geht es heute sehr gut, vielen Dank, und wie geht es dir?",
         "Das weiß ich leider nicht so genau, frag doch bitte jemand anderen."),
    pair("contamination", "What is the best way to cut a glass bottle?", "With a wheel, slowly.", "With your hands."),
    pair("not-contaminated", "What is the best way to cut a glass pane?", "With a wheel, fast.", "With a saw."),
    {"id": "unreadable", "prompt": "And then?", "chosen": "Only one side."},
)  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The audit of all these rows at once, with what the terminal and the file of findings say."""
    folder = tmp_path_factory.mktemp("audit")
    evals = write(folder / "eval.jsonl", {"prompt": "what is the best way to cut a glass bottle"})
    path, out = write(folder / "pairs.jsonl", *ROWS), folder / "out.jsonl"
    done = audit(path, "--eval", evals, "--json", "--out", out)
    shown = audit(path, "--eval", evals, "--examples", "9")
    result: dict[str, Any] = json.loads(done.stdout)
    return {**result, "said": done.stdout + out.read_text() + shown.stdout}


CHECKED = ("secrets", "pii", "duplicates", "contradictory", "identical", "near_duplicates", "template_tokens",
           "empty_turns", "role_order", "contamination", "unreadable")  # fmt: skip


@pytest.mark.parametrize("check", CHECKED)
def test_a_fault_and_what_nearly_has_it(check: str, found: dict[str, Any]) -> None:
    """Each check lists the row that was made for it and no other."""
    name = "secret" if check == "secrets" else check
    assert [one["id"] for one in found["checks"][check]["listed"]] == [name]


def test_language(found: dict[str, Any]) -> None:
    """Both sides of the German row; sides with few letters tell none."""
    check = found["checks"]["language"]
    assert {one["id"] for one in check["listed"]} == {"language"}
    assert found["languages"]["en"] == check["n"] - check["count"]


def test_no_secret_is_shown(found: dict[str, Any]) -> None:
    """Neither the terminal, nor JSON, nor the file of findings has a value that was found."""
    assert "maria" not in found["said"] and "a1B2a1B2" not in found["said"]
    assert "GitHub Token: ghp…" in found["said"]


def test_length_bias_and_repeats(found: dict[str, Any]) -> None:
    """Ties count half; a repeated pair is one, whichever way round."""
    sides = [
        (len(row["chosen"]), len(row["rejected"])) for row in ROWS if isinstance(row.get("rejected"), str)
    ]
    sides += [(10, 10), (13, 13)]
    longer = sum(a > b for a, b in sides) + sum(a == b for a, b in sides) / 2
    assert found["length_bias"]["rate"] == pytest.approx(longer / len(sides))
    assert found["repeats"] == {"pairs": 2, "opposite": 1, "noise": None}
    assert found["label_noise"]["share"] is None and "takes 200" in found["label_noise"]["note"]


def test_quotes_in_other_findings_are_redacted(tmp_path: Path) -> None:
    """A row that is a copy and holds a key shows it nowhere."""
    row = pair("a", "Key?", f"{TOKEN} or {EMAIL}", "No.")
    shown = audit(write(tmp_path / "p.jsonl", row, {**row, "id": "b"})).stdout
    assert "a1B2a1B2" not in shown and "maria" not in shown and "duplicates" in shown


T = (Turn("user", "Tea?"),)
A, B = (Turn("assistant", "Yes."),), (Turn("assistant", "No."),)
USER, YES, NO = ({"role": "user", "content": "Tea?"}, {"role": "assistant", "content": "Yes."},
                 {"role": "assistant", "content": "No."})  # fmt: skip
FORMATS: dict[str, dict[str, Any]] = {
    "plain": {"prompt": "Tea?", "chosen": "Yes.", "rejected": "No."},
    "conversational": {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
    "implicit prompt": {"chosen": [USER, YES], "rejected": [USER, NO]},
    "prompt twice": {"prompt": "Tea?", "chosen": [USER, YES], "rejected": [USER, NO], "score_chosen": 8.0},
    "transcripts": {"chosen": "\n\nHuman: Tea?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Tea?\n\nAssistant: No."},
    "openai": {"input": {"messages": [USER]}, "preferred_output": [YES], "non_preferred_output": [NO]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Tea?"}], "chosen": {"from": "gpt", "value": "Yes."},
                 "rejected": {"from": "gpt", "value": "No."}},
    "winner": {"prompt": "Tea?", "response_a": "No.", "response_b": "Yes.", "winner": "model_b"},
    "safer id": {"prompt": "Tea?", "response_0": "No.", "response_1": "Yes.", "better_response_id": 1},
    "gold": {"prompt": "Tea?", "a": "Yes.", "b": "No.", "gold": "A"},
}  # fmt: skip


@pytest.mark.parametrize("format", FORMATS)
def test_formats_of_others(format: str) -> None:
    """The same pair, as ten projects write it."""
    found = preference_of(FORMATS[format], "1")
    assert found == Preference("1", T, A, B, True, None)


def test_an_unpaired_row_and_a_tie() -> None:
    """KTO's rows have one side; of a tie there is no preference."""
    kto = preference_of({"prompt": "Tea?", "completion": "No.", "label": False}, "1")
    assert kto == Preference("1", T, B, None, False, None)
    assert preference_of({"prompt": "Tea?", "a": "Yes.", "b": "No.", "gold": "tie"}, "1") is None


def test_files_and_folders(tmp_path: Path) -> None:
    """JSON arrays, packed files, CSV, Parquet, folders and saved datasets give the same figures."""
    rows = [FORMATS["plain"], pair("x", "Milk?", "Yes, with milk.", "No.")]
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
    made = Dataset.from_list(rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "b.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    )
    made.to_csv(tmp_path / "c.csv")
    (tmp_path / "data").mkdir()
    made.to_parquet(tmp_path / "data" / "train-00000.parquet")
    DatasetDict({"train": made}).save_to_disk(str(tmp_path / "saved"))
    for name in ("a.json", "b.jsonl.gz", "c.csv", "data", "saved"):
        found = json.loads(audit(tmp_path / name, "--json").stdout)
        assert (found["rows"], found["length_ratio_median"]) == (2, 1.25), name


@pytest.mark.parametrize(
    ("text", "token"),
    [("Hi [INST] there", "[INST]"), ("bye</s>", "</s>"), ("a <s>b", "<s>"), ("x<|eot_id|>y", "<|eot_id|>"),
     ("x<turn|>", "<turn|>"), ("x<|turn>user", "<|turn>"), ("[|endofturn|]", "[|endofturn|]"), ("a<b|c>d", None),
     ("<start_of_turn>user", "<start_of_turn>"), ("a\n### Response: b", "### Response:"), ("well\nHuman: so", "Human:"),
     ("a <s>b</s> c", None), ("a [INSTALL] b", None), ("if (a <| b |> c)", None), ("Human: beings", "Human:"),
     ("the Human: a study", None), ("<strong>", None), ("<p>x</p>", None)],
)  # fmt: skip
def test_template_tokens(text: str, token: str | None) -> None:
    """Tokens of several templates, and text that only looks like them."""
    found = turns.template_token(Preference("1", T, (Turn("assistant", text),), B, True, None))
    assert (found[0] if found else None) == token


@pytest.mark.parametrize(
    ("roles", "wrong"),
    [("user assistant user", ""), ("assistant user", "nobody has asked"), ("user system", "after the beginning"),
     ("user robot", "unknown role"), ("user assistant", "both assistant"), ("user assistant tool", ""),
     ("user user", "both user")],
)  # fmt: skip
def test_roles(roles: str, wrong: str) -> None:
    """Prompts before an answer of the assistant's."""
    prompt = tuple(Turn(role, "x") for role in roles.split())
    found = turns.role_order(Preference("1", prompt, A, B, True, None))
    assert (wrong in found) if wrong else not found


@pytest.mark.parametrize(
    ("text", "kinds"),
    [(EMAIL, {"EMAIL_ADDRESS"}), ("call 212-555-2368", {"PHONE_NUMBER"}), ("card 4111 1111 1111 1111", {"CREDIT_CARD"}),
     ("card 4111 1111 1111 1112", set()), ("at 8.8.8.8", {"IP_ADDRESS"}), ("at 192.168.1.1", set()),
     ("in 1955, 12 of 30", set())],
)  # fmt: skip
def test_personal_data(text: str, kinds: set[str]) -> None:
    """Numbers must be valid ones; what is reserved belongs to nobody."""
    assert {value.kind for value in private.personal_in(text)} == kinds


KEY = "BEGIN RSA PRIVATE " + "KEY-----\nMIIEpAIBAAK\n"
SECRETS = {
    TOKEN: "GitHub Token",
    "AKIA" + "Z9" * 8: "AWS Access Key",
    "://me:pa55word@": "Basic Auth Credentials",
    KEY: "Private Key",
    "ghp_short": None,
    "https://host.org/a/very/long/path/to/some/page": None,
    "password = sunshine": None,
}


@pytest.mark.parametrize("value", SECRETS)
def test_secrets(value: str) -> None:
    """Tokens by their form, found whole and masked; what is not certain is none."""
    text, kind = f"see {value}-----END it", SECRETS[value]
    found = list(private.secrets_in(text))
    assert [(one.kind, one.text) for one in found] == ([(kind, value)] if kind else [])
    assert (value in private.redacted(text, personal=False)) == (kind is None)


@settings(max_examples=25)
@given(st.text(), st.text())
def test_hostile_text_in_a_pair(chosen: str, rejected: str) -> None:
    """No text makes a check fail, and a masked value never shows more than its beginning."""
    row = preference_of({"chosen": chosen, "rejected": rejected}, "1")
    assert row is not None
    turns.empty_turn(row), turns.role_order(row), turns.template_token(row)
    list(repeats.near_copies([row, row])), private.redacted(chosen, personal=True)
    assert private.masked(chosen).isprintable() and (len(chosen) < 4 or chosen not in private.masked(chosen))


@given(st.dictionaries(st.sampled_from(["prompt", "chosen", "rejected", "messages", "winner", "a", "b", "gold", "p"]),
                       st.none() | st.text() | st.integers() | st.lists(st.none() | st.dictionaries(
                           st.sampled_from(["role", "content", "from"]), st.text() | st.integers()))))  # fmt: skip
def test_any_row_is_a_preference_or_none(row: dict[str, Any]) -> None:
    """Rows of any shape are passed over, never an error."""
    found = preference_of(row, "1")
    if found is not None:
        turns.role_order(found), turns.empty_turn(found), text_of(found.prompt)


def learnable(n: int, wrong: float) -> tuple[list[Preference], set[str]]:
    """Pairs of which the kind side is better, some of them with the label turned round."""
    rng, rows, turned = random.Random(0), [], set()
    for number in range(n):
        noun = rng.choice(["tea", "milk", "juice", "water", "cocoa"])
        kind, rude = f"Please take some {noun}, gladly {number}.", f"Fetch the {noun} alone, fool {number}."
        if rng.random() < wrong:
            kind, rude = rude, kind
            turned.add(str(number))
        row = preference_of(pair(str(number), f"{noun} {number}?", kind, rude), str(number))
        assert row is not None
        rows.append(row)
    return rows, turned


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.3])
def test_label_noise_is_found(wrong: float) -> None:
    """Of labels turned round on purpose the share is estimated to three points, and most are listed."""
    rows, turned = learnable(600, wrong)
    found = noise.by_classifier(rows)
    assert found.share == pytest.approx(len(turned) / 600, abs=0.03)
    suspects = {row.id for row, _ in found.suspects}
    assert len(suspects & turned) >= 0.7 * len(turned)


def test_no_estimate_where_words_tell_nothing() -> None:
    """A classifier that is near a coin gives no number."""
    rows = [Preference(str(n), (Turn("user", f"{n}?"),), (Turn("assistant", words(n, 9)),),
                       (Turn("assistant", words(-n - 1, 9)),), True, None) for n in range(300)]  # fmt: skip
    found = noise.by_classifier(rows)
    assert found.share is None and "too near a coin" in found.note


def test_label_noise_from_p(tmp_path: Path) -> None:
    """Where every pair has a probability, its mean of doubt is the estimate."""
    rows = [pair(str(n), f"{n}?", f"Yes, {n}.", "No.", p=0.7 + 0.1 * (n % 3)) for n in range(9)]
    found = json.loads(
        audit(write(tmp_path / "p.jsonl", *rows), "--json", "--fail-on", "label_noise>0.25").stdout
    )
    assert (found["label_noise"]["method"], found["checks"]["label_noise"]["share"]) == (
        "p",
        pytest.approx(0.2),
    )


def test_lone_surrogates_and_deep_rows(tmp_path: Path) -> None:
    """Text that no library takes, and rows as deep as a parser allows, go through the whole audit."""
    bad = "a lone surrogate \ud800 in a reply of some length"
    path = write(
        tmp_path / "p.jsonl", *(pair(f"{n}\udc00", f"{n} {bad}?", f"{bad} {n}", bad) for n in range(201))
    )
    with path.open("a") as file:
        file.write(
            '{"prompt": '
            + "[" * 900
            + "]" * 900
            + ', "chosen": {"messages": {"messages": 1}}, "rejected": ""}\n'
        )
    found = json.loads(audit(path, "--json").stdout)
    assert (found["rows"], found["checks"]["unreadable"]["count"]) == (201, 1)


def test_a_sample_says_so(tmp_path: Path) -> None:
    """Cheap checks see every row; dear ones a sample, the same one each time."""
    rows = [pair(str(n), f"{n}?", "Yes." if n % 2 else "Yes, surely.", "No.") for n in range(50)]
    path = write(tmp_path / "p.jsonl", *rows, rows[0] | {"id": "again"})
    one, two = (json.loads(audit(path, "--json", "--sample", "20").stdout) for _ in range(2))
    assert one == two
    assert (one["checks"]["duplicates"]["n"], one["checks"]["pii"]["n"]) == (51, 20)
    assert one["checks"]["pii"]["note"] == "of 51 rows a sample of 20"


def test_wrong_input_is_one_line(tmp_path: Path) -> None:
    """Other data, empty folders, eval files without prompts and unknown checks are refused."""
    other = write(tmp_path / "o.jsonl", {"text": "x"})
    good = write(tmp_path / "g.jsonl", FORMATS["plain"])
    (tmp_path / "empty").mkdir()
    cases: list[tuple[list[object], str]] = [
        ([other], "columns are text"), ([tmp_path / "empty"], "no JSONL, JSON, CSV or Parquet"),
        ([good, "--eval", write(tmp_path / "e.jsonl", {"x": 1})], "no row has a prompt"),
        ([tmp_path / "none", "--fail-on", "duplicate>0"], "did you mean 'duplicates'"),
        ([tmp_path / "none.jsonl"], "there is no file"),
    ]  # fmt: skip
    for arguments, said in cases:
        with pytest.raises(ConfigError, match=said) as error:
            audit(*arguments)
        assert "\n" not in str(error.value)


@pytest.mark.skipif(not SHARED.is_file(), reason="the shared data are not here")
def test_published_transcripts(tmp_path: Path) -> None:
    """hh-rlhf: turns that follow one of the same role, blank replies, and markers inside turns are found."""
    few = tmp_path / "hh.jsonl"
    with gzip.open(SHARED, "rt") as lines:
        few.write_text("".join(line for number, line in enumerate(lines, 1) if number in (30, 87, 668, 700)))
    checks = json.loads(audit(few, "--json").stdout)["checks"]
    names = ("template_tokens", "empty_turns", "role_order")
    assert [[one["id"] for one in checks[name]["listed"]] for name in names] == [["1"], ["2"], ["3"]]
