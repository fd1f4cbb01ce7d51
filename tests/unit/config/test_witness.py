"""witness.toml: what it says, and what is said about its mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.witness_load import load_witness_text
from gateway.runtime.main import main

GOOD = '[cluster.a]\nnumber = 1\nsecret.file = "a"\n'


def said(source: str) -> list[str]:
    return [str(one).removeprefix("witness.toml:") for one in load_witness_text(source).diagnostics]


def test_the_defaults():
    config = load_witness_text(GOOD).config
    assert config is not None
    cluster = config.cluster["a"]
    assert (str(config.witness.address), config.witness.port) == ("0.0.0.0", 4781)
    assert config.witness.state_directory == "/var/lib/gatewayd-witness"
    assert (cluster.longest_ttl, cluster.break_allowed, cluster.older_secrets) == (10.0, False, ())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (GOOD + 'longest_tll = "5s"', "4:1: cluster.a.longest_tll: unknown key 'longest_tll'; did you mean 'longest_ttl'?"),
        (GOOD + "port = 4781", "4:1: cluster.a.port: unknown key 'port'; it belongs in [witness]"),
        (GOOD + "[withness]", "4:1: withness: unknown key 'withness'; did you mean 'witness'?"),
        (GOOD + "[connection.x]", "4:1: connection: unknown key 'connection'; allowed here: witness, cluster"),
        (GOOD + '[witness]\nlog_level = "inof"',
         "5:1: witness.log_level: 'inof' is not one of debug, info, warning, error; did you mean 'info'?"),
        (GOOD + "longest_ttl = 61", "4:1: cluster.a.longest_ttl: 61 s is too large; at most 60 s"),
        (GOOD + 'longest_ttl = "50ms"', "4:1: cluster.a.longest_ttl: 0.05 s is too small; at least 0.1 s"),
        (GOOD + "break_allowed = 1", "4:1: cluster.a.break_allowed: expected true or false, got a whole number"),
        ('[cluster.a]\nsecret.file = "a"',
         "1:1: cluster.a.number: required key 'number' is missing; the number that both gateways give their pair"),
        ("[cluster.a]\nnumber = 1",
         "1:1: cluster.a.secret: required key 'secret' is missing; shared by the pair and the witness; at least 16 octets"),
        ('[cluster.a]\nnumber = 4294967296\nsecret.file = "a"',
         "2:1: cluster.a.number: 4294967296 is too large; at most 4294967295"),
        ('[cluster.a]\nnumber = 1\nsecret = "hunter2"',
         '3:1: cluster.a.secret: expected a table such as secret = { file = "secrets/a.secret" }, got text in quotes'),
        ('[cluster.a]\nnumber = 1\nsecret.inline = "hunter2hunter2hunter2"',
         "3:1: cluster.a.secret: inline secrets are not taken here; use file or credential"),
        (GOOD + 'older_secrets = ["a"]',
         '4:18: cluster.a.older_secrets[0]: expected a table such as { file = "secrets/old.secret" }, got text in quotes'),
        (GOOD + 'older_secrets = { file = "b" }',
         '4:1: cluster.a.older_secrets: expected an array such as [{ file = "secrets/old.secret" }], got a table'),
        (GOOD + 'older_secrets = [{ fiel = "b" }]',
         "4:20: cluster.a.older_secrets[0].fiel: unknown key 'fiel'; did you mean 'file'?"),
        (GOOD + 'older_secrets = [{ file = "b" }, {}]',
         "4:34: cluster.a.older_secrets[1]: exactly one of file, credential or inline is needed; none given"),
        (GOOD + 'older_secrets = [{ file = "b" }, { file = "c" }, { file = "d" }, { file = "e" }]',
         "4:1: cluster.a.older_secrets: 4 given; at most 3"),
        (GOOD + '[cluster.b]\nnumber = 1\nsecret.file = "b"',
         "5:1: cluster.b.number: 1 is cluster a's, line 2; two pairs with one number would share one lease"),
        ('[witness]\naddress = "witness.example"\n' + GOOD,
         "2:1: witness.address: 'witness.example' is not an IPv4 or IPv6 address (names are not looked up)"),
    ],
    ids=lambda value: value.partition(": ")[2][:40] if ": " in value else "",
)  # fmt: skip
def test_each_mistake_has_its_message(source: str, expected: str):
    assert said(source + "\n") == [expected]
    assert load_witness_text(source).config is None


def test_who_serves_nobody_is_warned():
    assert said("[witness]\nport = 4781\n") == ["1:1: warning: no [cluster.NAME]: it serves nobody"]


def test_mistakes_of_different_clusters_come_together():
    source = GOOD + '[cluster.b]\nnumber = 1\nsecret.file = "b"\n[cluster.c]\nnumber = "x"\nsecret.file = "c"\n'
    assert [line.split(": ")[1] for line in said(source)] == ["cluster.b.number", "cluster.c.number"]


def test_it_is_checked_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "witness.toml"
    file.write_text(GOOD)
    assert main(["--witness", "--check", "--config", str(file)]) == 0
    assert main(["--witness", "--check", "--secrets", "--config", str(file)]) == 78
    told = capsys.readouterr().out
    assert f"{file}:3:1: cluster.a.secret: " in told
    secret = tmp_path / "a"
    secret.touch(mode=0o600)
    secret.write_text("too short\n")
    assert main(["--witness", "--check", "--secrets", "--config", str(file)]) == 78
    assert "the secret of the witness has 9 octets; at least 16 are needed" in capsys.readouterr().out
    secret.write_text("correct horse battery staple\n")
    assert main(["--witness", "--check", "--secrets", "--config", str(file)]) == 0
    assert main(["--check", "--config", str(file)]) == 78, "not a gateway.toml"
