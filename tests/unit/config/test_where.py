"""Where a setting of a connection stands: the line to change, or the table to add it to."""

from __future__ import annotations

from gateway.config.where import Place, places

TEXT = """\
[gateway]
name = "g"

[connection.a]
local_addrs = "10.0.0.1"
psk.file = "psk"
proposals = [
  "aes256-sha256-ecp256",
]
rekey_time = "1h"

[connection.a.child.web]
esp_proposals = ["aes256gcm16"]

[connection.a.child.rest]
rekey_time = "20m"

[connection."b c"]
esp_proposals = ["aes256gcm16"]
"""


def test_a_key_is_at_each_line_that_sets_it_in_the_connection_and_its_children() -> None:
    assert list(places(TEXT, ["proposals", "psk", "rekey_time"], "a")) == [
        Place("a", "proposals", (7,), 4),
        Place("a", "psk", (6,), 4),
        Place("a", "rekey_time", (10, 16), 4),
    ]
    assert list(places(TEXT, ["esp_proposals"])) == [
        Place("a", "esp_proposals", (13,), 12),
        Place("b c", "esp_proposals", (19,), 18),
    ]


def test_a_default_is_added_below_a_table_that_may_have_it() -> None:
    assert list(places(TEXT, ["remote_id", "rekey_bytes"], "a")) == [
        Place("a", "remote_id", (), 4),
        Place("a", "rekey_bytes", (), 12),
    ]
    # A child's, where it has a table; where it has none the connection's table has its settings in short
    assert [place.below for place in places(TEXT, ["remote_ts"])] == [12, 18]


def test_what_is_no_setting_of_a_connection_has_no_place() -> None:
    assert list(places(TEXT, ["gatewayctl", "name"])) == []
    assert list(places(TEXT, ["psk"], "nobody")) == []
    assert list(places("connection = 5\n[connection.a", ["psk"])) == []
