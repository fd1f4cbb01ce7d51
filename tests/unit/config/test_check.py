"""`gatewayd --check`: the exit code, the text, the JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from gateway.config.check import check_file

GOOD = (
    '[connection.a]\nlocal_addrs = "10.0.1.4"\n'
    'remote_addrs = "198.51.100.7"\npsk.file = "x"\nremote_ts = ["172.16.0.0/16"]\n'
)
WARNED = GOOD + '[metrics]\naddress = "10.0.1.4"\n'
BAD = GOOD + '\trekey_tme = "4h"\n[metrics]\naddress = "10.0.1.4"\n'
SECRET = GOOD.replace('psk.file = "x"', 'psk = "hunter2"')


def run(
    directory: Path, source: str, strict: bool = False, output: str = "text", color: bool = False
) -> tuple[int, str]:
    path = directory / "gateway.toml"
    path.write_text(source)
    stream = io.StringIO()
    assert output in ("text", "json")
    code = check_file(path, strict, "json" if output == "json" else "text", stream, color)
    return code, stream.getvalue().replace(str(directory) + "/", "")


def test_a_good_file_is_ok(tmp_path: Path) -> None:
    assert run(tmp_path, GOOD) == (0, "gateway.toml: ok\n")


def test_a_bad_file_shows_line_and_caret_and_is_78(tmp_path: Path) -> None:
    assert run(tmp_path, BAD) == (
        78,
        "gateway.toml:6:2: connection.a.rekey_tme: unknown key 'rekey_tme'; did you mean 'rekey_time'?\n"
        '  \trekey_tme = "4h"\n'
        "  \t^\n"
        "gateway.toml:8:1: warning: metrics.address: 10.0.1.4 is not loopback; "
        "whoever reaches port 9550 can read metrics and status\n"
        '  address = "10.0.1.4"\n'
        "  ^\n"
        "gateway.toml: 1 error and 1 warning\n",
    )


@pytest.mark.parametrize(("strict", "code"), [(False, 0), (True, 78)])
def test_warnings_fail_only_when_strict(tmp_path: Path, strict: bool, code: int) -> None:
    found, text = run(tmp_path, WARNED, strict)
    assert found == code
    assert ("1 error\n" if strict else "1 warning\n") in text


def test_json_has_a_schema_number_and_every_finding(tmp_path: Path) -> None:
    code, text = run(tmp_path, BAD, output="json")
    document = json.loads(text)
    assert code == 78
    assert (document["schema"], document["ok"], document["errors"], document["warnings"]) == (1, False, 1, 1)
    assert document["diagnostics"][0] == {
        "severity": "error",
        "file": "gateway.toml",
        "line": 6,
        "column": 2,
        "path": "connection.a.rekey_tme",
        "message": "unknown key 'rekey_tme'; did you mean 'rekey_time'?",
    }
    assert json.loads(run(tmp_path, GOOD, output="json")[1])["ok"] is True


def test_colour_marks_the_severity(tmp_path: Path) -> None:
    _, text = run(tmp_path, BAD, color=True)
    assert "\x1b[1;31mgateway.toml:6:2:" in text
    assert "\x1b[1;33mgateway.toml:8:1:" in text
    assert "\x1b" not in run(tmp_path, BAD)[1]


@pytest.mark.parametrize(
    "line",
    [
        'psk = "hunter2"',
        'psk.inline = "hunter2"',
        "psk = { inline = 'hunter2' }",
        "psk.file = hunter2",
        'psk.inlin = "hunter2"',
        "psk = hunter2",
    ],
)
def test_no_secret_is_repeated_in_messages_or_source_lines(tmp_path: Path, line: str) -> None:
    code, text = run(tmp_path, GOOD.replace('psk.file = "x"', line))
    assert code == 78
    assert "hunter2" not in text
    assert "= ***" in text


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    _, text = run(tmp_path, '[gateway]\n"\\u001b[31m" = 1\nname = "\x1b[31m"\n')
    assert "\x1b" not in text
    _, text = run(tmp_path, '[gateway]\n"\\u001b[31m" = 1\nlog_level = "\\u001b[2J\\n"\n')
    assert "\x1b" not in text
    # Two findings of three lines, and the summary: an escaped newline does not make a line of its own.
    assert text.count("\n") == 7


def test_a_missing_file_is_78(tmp_path: Path) -> None:
    stream = io.StringIO()
    assert check_file(tmp_path / "none.toml", False, "text", stream, False) == 78
    assert "cannot read the file" in stream.getvalue()
