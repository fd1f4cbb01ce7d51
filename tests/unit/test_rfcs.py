"""docs/RFCS.md and docs/SECURITY_HISTORY.md name tests that exist. The one says where there is none, and leaves out no RFC that the IKE
core cites; the other has one for each class. Reads text, imports nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "RFCS.md").read_text()
HISTORY = (ROOT / "docs" / "SECURITY_HISTORY.md").read_text()
NAMED = sorted(set(re.findall(r"`([^`\s]+)::(\w+)`", TEXT + HISTORY)))
ROWS = [
    line for line in TEXT.partition("## What the product will need")[0].splitlines()
    if line.startswith("| ") and not line.startswith("| section |")
]  # fmt: skip
DEFINITION = {".py": r"^ *(?:async )?def {}\(", ".c": r"^static void {}\("}
CITED = re.compile(r"\bRFC (\d+(?:(?:, | and )\d{4}(?!\d|\.\d))*)|\b(draft-[a-z0-9-]+)")


def cited(text: str) -> set[str]:
    """Numbers of RFCs ("RFC 4754, 8420" are two) and names of drafts; "RFC 7296 3.1, 3.2" is one with its sections."""
    found = set()
    for numbers, draft in CITED.findall(text):
        found |= {draft} if draft else set(re.findall(r"\d+", numbers))
    return found


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_every_test_that_is_named_exists(path: str) -> None:
    file = ROOT / path
    assert file.is_file(), f"docs/RFCS.md or docs/SECURITY_HISTORY.md names {path}"
    source = file.read_text()
    pattern = DEFINITION[file.suffix]
    missing = [name for of, name in NAMED if of == path and not re.search(pattern.format(name), source, re.MULTILINE)]
    assert missing == [], f"not in {path}"


def test_c_tests_that_are_named_are_run() -> None:
    for path, name in NAMED:
        if path.endswith(".c"):
            assert f"RUN({name})" in (ROOT / path).read_text(), f"{path} does not run {name}"


def test_every_row_names_a_test_or_says_that_there_is_none() -> None:
    assert len(ROWS) > 100
    for row in ROWS:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 3, row
        assert cells[2] == "no test" or re.fullmatch(r"`[^`\s]+::\w+`(, `[^`\s]+::\w+`)*", cells[2]), row


def test_every_class_of_the_history_has_tests_that_bear_its_name() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in HISTORY.splitlines()
        if re.match(r"\| \d+ ", line)
    ]
    assert [int(row[0].split()[0]) for row in rows] == list(range(1, 16))
    for row in rows:
        assert len(row) == 4, row[0]
        assert re.fullmatch(r"`[^`\s]+::\w+`(, `[^`\s]+::\w+`)+", row[3]), row[0]
    known = set(re.findall(r"cve_\d{4}_\d+", " ".join(name for _, name in NAMED)))
    # What is named for a CVE in the tests of the history is in its table
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in re.findall(r"^def (test_cve_\w+)", file.read_text(), re.MULTILINE):
            assert set(re.findall(r"cve_\d{4}_\d+", name)) & known, f"{file.name}::{name}"


def test_every_rfc_that_the_ike_core_cites_is_there() -> None:
    for file in sorted((ROOT / "gateway" / "ike").rglob("*.py")):
        for one in sorted(cited(file.read_text())):
            assert re.search(rf"(?<![\w.-]){one}(?![\w.-]*\w)", TEXT), f"{file.relative_to(ROOT)} cites {one}"


def test_citations_are_found_in_every_form() -> None:
    text = "RFC 4754 3, RFC 7296 2.15, 2.16; RFC 4754, 8420 and 9593. (RFC 5280 6.1) draft-ietf-ipsecme-ikev2-mlkem: RFC822_ADDR"
    assert cited(text) == {"4754", "7296", "8420", "9593", "5280", "draft-ietf-ipsecme-ikev2-mlkem"}
