"""Test results as JUnit XML, which every CI server reads: a suite a constitution, a case a test.

Written so that both the Ant schema and Jenkins' take it: the suite's attributes are all there, its parts are in
order, properties belong to the suite. The calls of a suite run side by side, so its time is its own and a
case's is 0.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from cai.judge.passes import Checked
from cai.report.passes import failure_of
from cai.tryout.check import Checks

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # by XML 1.0, section 2.2
PROMPT_CHARS = 100


def junit_xml(suites: Sequence[Checks]) -> str:
    """The report of one or several constitutions. Characters that XML cannot hold are replaced."""
    root = ET.Element("testsuites")
    for number, suite in enumerate(suites):
        root.append(_suite(suite, number))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode")


def _suite(found: Checks, number: int) -> ET.Element:
    element = _element(
        "testsuite",
        name=found.name,
        package=found.file,
        id=str(number),
        tests=str(found.tests),
        failures=str(found.tests - found.passed),
        errors="0",
        skipped="0",
        time=f"{found.seconds:.3f}",
        timestamp=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        hostname=socket.gethostname() or "localhost",
    )
    properties = ET.SubElement(element, "properties")
    facts = {
        "version": found.version,
        "judge": found.judge,
        "min_pass_rate": f"{found.min_pass_rate:g}",
        "calls_made": str(found.calls.made),
        "calls_replayed": str(found.calls.replayed),
        "skipped_pairs": str(found.skipped),
        "untested": ", ".join(found.untested),
    }
    for one in found.principles:
        facts[f"pass_rate.{one.principle}"] = "none" if one.rate is None else f"{one.rate:.4f}"
    for name, value in facts.items():
        properties.append(_element("property", name=name, value=value))
    for one in found.principles:
        element.extend(_case(f"{found.name}.{one.principle}", test) for test in one.checked)
    ET.SubElement(element, "system-out")
    ET.SubElement(element, "system-err")
    return element


def _case(classname: str, test: Checked) -> ET.Element:
    start = " ".join(test.prompt.split())[:PROMPT_CHARS]
    element = _element("testcase", classname=classname, name=f"{test.id}: {start}", time="0")
    if test.failure is not None:
        failure = _element("failure", message=failure_of(test), type=test.failure)
        failure.text = clean(f"prompt: {test.prompt}")
        element.append(failure)
    return element


def _element(tag: str, **attributes: str) -> ET.Element:
    return ET.Element(tag, {name: clean(value) for name, value in attributes.items()})


def clean(text: str) -> str:
    """Text without the characters that XML 1.0 forbids: each becomes a replacement character."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
