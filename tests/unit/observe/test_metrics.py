"""The exposition text is parsed back; what it says must be what the snapshot says."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.snapshots import CHILD, FRESH, HEALTHY, NOW, TROUBLED, UP

from gateway.ike.states import IkeState
from gateway.observe import metrics
from gateway.observe.snapshot import HaPathStatus, Snapshot

ROOT = Path(__file__).parents[3]


def series(snapshot: Snapshot) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = metrics.render(snapshot).decode()
    found = [
        (s.name, frozenset(s.labels.items()), s.value) for f in text_string_to_metric_families(text) for s in f.samples
    ]
    keys = Counter((name, labels) for name, labels, _ in found)
    assert [key for key, count in keys.items() if count > 1] == [], "a series must not appear twice"
    return {(name, labels): value for name, labels, value in found}


def value(snapshot: Snapshot, name: str, **labels: str) -> float:
    return series(snapshot)[name, frozenset(labels.items())]


def test_a_configured_tunnel_that_is_down_is_visible_from_the_start():
    assert value(FRESH, "gateway_tunnel_up", tunnel="onprem-b") == 0
    assert value(FRESH, "gateway_ike_sa_state", tunnel="onprem-b", state="DOWN") == 1
    assert (
        value(
            FRESH,
            "gateway_ike_exchanges_total",
            tunnel="onprem-b",
            exchange="IKE_AUTH",
            role="initiator",
            result="failed",
        )
        == 0
    )
    assert (
        value(FRESH, "gateway_ike_notifies_total", tunnel="onprem-b", notify="NO_PROPOSAL_CHOSEN", direction="in") == 0
    )
    assert value(FRESH, "gateway_esp_drops_total", tunnel="onprem-b", reason="replay", direction="in") == 0
    assert (
        value(FRESH, "gateway_esp_last_packet_timestamp_seconds", tunnel="onprem-b", child="net", direction="in") == 0
    )


def test_the_ike_state_is_a_stateset():
    for snapshot in (FRESH, HEALTHY, TROUBLED):
        for tunnel in snapshot.tunnels:
            states = [
                v
                for (name, labels), v in series(snapshot).items()
                if name == "gateway_ike_sa_state" and ("tunnel", tunnel.name) in labels
            ]
            assert sorted(states) == [0] * len(IkeState) + [1]


def test_a_child_being_rekeyed_still_carries_traffic():
    rekeying = replace(HEALTHY, tunnels=(replace(UP, children=(replace(CHILD, state="REKEYING"),)),))
    assert value(rekeying, "gateway_child_sa_up", tunnel="azure-a", child="net") == 1
    assert value(FRESH, "gateway_child_sa_up", tunnel="onprem-b", child="net") == 0


def test_counters_carry_the_totals_that_survive_rekeys():
    assert (
        value(HEALTHY, "gateway_esp_bytes_total", tunnel="azure-a", direction="in") == UP.octets_in != CHILD.octets_in
    )
    assert value(HEALTHY, "gateway_esp_drops_total", tunnel="azure-a", reason="replay", direction="in") == 5
    assert value(HEALTHY, "gateway_esp_drops_total", tunnel="", reason="unknown_spi", direction="in") == 7
    assert value(HEALTHY, "gateway_child_sa_rekeys_total", tunnel="azure-a", child="net", result="ok") == 3
    assert (
        value(
            HEALTHY,
            "gateway_ike_exchanges_total",
            tunnel="azure-a",
            exchange="CREATE_CHILD_SA",
            role="responder",
            result="ok",
        )
        == 3
    )


def test_timestamps_are_unix_time():
    # taken_at 2026-11-21T12:00:00.25Z is monotonic NOW; established 8040 s earlier
    assert value(HEALTHY, "gateway_ike_sa_established_timestamp_seconds", tunnel="azure-a") == pytest.approx(
        1795262400.2 - 8040, abs=0.11
    )


def test_remaining_lifetime_is_a_ratio_and_absent_while_down():
    assert value(
        HEALTHY, "gateway_child_sa_lifetime_remaining_ratio", tunnel="azure-a", child="net", limit="time"
    ) == pytest.approx(0.75)
    assert value(
        HEALTHY, "gateway_child_sa_lifetime_remaining_ratio", tunnel="azure-a", child="net", limit="sequence"
    ) == pytest.approx(0.9996)
    assert not [key for key in series(FRESH) if key[0] == "gateway_child_sa_lifetime_remaining_ratio"]


def test_two_sas_of_one_child_during_a_rekey_share_their_series():
    newer = replace(CHILD, spi_in=1, installed_at=NOW - 1, rekey_at=NOW + 99, last_in=None)
    rekeying = replace(HEALTHY, tunnels=(replace(UP, children=(replace(CHILD, state="REKEYED"), newer)),))
    assert value(
        rekeying, "gateway_child_sa_lifetime_remaining_ratio", tunnel="azure-a", child="net", limit="time"
    ) == pytest.approx(0.99)
    assert value(rekeying, "gateway_child_sa_up", tunnel="azure-a", child="net") == 1


def test_notify_numbers_a_peer_can_invent_share_one_series():
    assert value(HEALTHY, "gateway_ike_notifies_total", tunnel="azure-a", notify="OTHER", direction="in") == 5
    names = {dict(labels)["notify"] for name, labels in series(HEALTHY) if name == "gateway_ike_notifies_total"}
    assert not any(name.isdigit() for name in names)


def test_bgp_and_ha():
    assert value(HEALTHY, "gateway_bgp_peer_up", peer="169.254.21.1", asn="65515") == 1
    assert value(HEALTHY, "gateway_bgp_prefixes", peer="169.254.21.1", rib="adj_in") == 3
    assert value(HEALTHY, "gateway_ha_rejected_total", reason="bad_mac") == 2
    assert value(HEALTHY, "gateway_ha_rejected_total", reason="malformed") == 0
    assert not [key for key in series(FRESH) if key[0].startswith("gateway_ha_")]


def test_a_session_inside_a_tunnel_that_is_at_the_other_gateway_is_told_apart():
    assert HEALTHY.ha is not None
    name = "gateway_ha_bgp_peer_elsewhere"
    assert not [key for key in series(HEALTHY) if key[0] == name]
    beside = replace(HEALTHY.peers[0], name="vnet", address="10.1.0.1", connection="")
    away = replace(HEALTHY, peers=(*HEALTHY.peers, beside), ha=replace(HEALTHY.ha, sent_away=("azure-a",)))
    assert value(away, name, peer="169.254.21.1") == 1
    assert len([key for key in series(away) if key[0] == name]) == 1


def test_two_paths_to_one_address_share_a_series_which_is_up_while_both_are():
    paths = tuple(
        HaPathStatus(f"10.0.{n}.4:4780", "10.0.0.5:4780", up, NOW, None, 0.0) for n, up in enumerate((True, False))
    )
    assert HEALTHY.ha is not None
    shown = replace(HEALTHY, ha=replace(HEALTHY.ha, paths=paths))
    assert [made for (name, _), made in series(shown).items() if name == "gateway_ha_path_up"] == [0]
    text = metrics.render(shown).decode()
    assert text.count("\ngateway_ha_path_up{") == 1, "a scrape with one series twice is refused"


def test_the_number_of_series_does_not_depend_on_traffic():
    busy = replace(HEALTHY, tunnels=(replace(UP, notifies={f"{n} in": 1 for n in range(40000, 40100)}),))
    quiet = replace(HEALTHY, tunnels=(replace(UP, notifies={}),))
    assert len(series(busy)) == len(series(quiet))


def test_drop_reasons_are_those_of_the_data_plane():
    header = (ROOT / "native" / "drop_reasons.h").read_text()
    listed = dict(re.findall(r'_\([A-Z_]+, "(\w+)", "(\w+)', header))
    directions = {"outbound": "out", "inbound": "in"}
    assert {label: directions.get(word, "any") for label, word in listed.items()} == metrics.DROP_REASONS


def test_stages_and_burst_sizes_are_those_of_the_data_plane():
    header = (ROOT / "native" / "dataplane.h").read_text()
    assert re.findall(r'_\([A-Z]+, "(\w+)", "(?:out|in)bound: ', header) == list(metrics.STAGES)
    (buckets,) = re.findall(r"#define BURST_BUCKETS (\d+)", header)
    assert tuple(2**i for i in range(int(buckets))) == metrics.BURST_BOUNDS


def test_batch_sizes_are_a_histogram_of_packets():
    for le, bursts in {"1.0": 10, "2.0": 10, "4.0": 15, "64.0": 15, "128.0": 45, "+Inf": 45}.items():
        assert value(HEALTHY, "gateway_worker_batch_size_bucket", worker="0", direction="in", le=le) == bursts
    assert value(HEALTHY, "gateway_worker_batch_size_count", worker="0", direction="in") == 45
    assert value(HEALTHY, "gateway_worker_batch_size_sum", worker="0", direction="in") == 4000
    assert value(HEALTHY, "gateway_worker_batch_size_sum", worker="0", direction="out") == 1100
    assert value(FRESH, "gateway_worker_batch_size_bucket", worker="0", direction="in", le="+Inf") == 0


def test_a_workers_queues_calls_and_cycles():
    assert value(HEALTHY, "gateway_worker_socket_queue_bytes", worker="0") == 2304
    assert value(HEALTHY, "gateway_worker_socket_drops_total", worker="0") == 3
    assert value(HEALTHY, "gateway_worker_empty_polls_total", worker="0") == 77
    assert value(HEALTHY, "gateway_worker_system_calls_total", worker="0", call="udp_sends") == 30
    worker = replace(HEALTHY.workers[0], fallbacks={"full": 4})
    fallen = replace(HEALTHY, workers=(worker,))
    for reason, packets in (("full", 4), ("refused", 0)):
        name = "gateway_worker_packet_socket_fallbacks_total"
        assert value(fallen, name, worker="0", reason=reason) == packets
    assert value(HEALTHY, "gateway_worker_cycles_total", worker="0", stage="seal") == 330000
    assert value(FRESH, "gateway_worker_cycles_total", worker="0", stage="seal") == 0


def test_names_follow_the_rules():
    for family in metrics.FAMILIES:
        assert family.name.startswith("gateway_")
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert not {"spi", "uid", "port", "identity"} & set(family.labels)


def test_the_documentation_is_current():
    assert (ROOT / "docs" / "metrics.md").read_text() == metrics.documentation(), (
        "run: python -m gateway.observe.metrics > docs/metrics.md"
    )


def test_bfd_sessions_are_counted_and_what_was_refused_by_every_reason():
    labels = {"session": "bfd edge", "kind": "bfd"}
    assert value(HEALTHY, "gateway_liveness_up", **labels) == 1
    assert value(HEALTHY, "gateway_liveness_failed", **labels) == 0
    assert value(HEALTHY, "gateway_liveness_flaps_total", **labels) == 2
    assert value(HEALTHY, "gateway_liveness_detection_seconds", **labels) == 0.3
    assert value(HEALTHY, "gateway_liveness_packets_total", **labels, direction="in") == 35_990
    assert value(HEALTHY, "gateway_liveness_refused_total", reason="hops") == 4
    assert value(HEALTHY, "gateway_liveness_refused_total", reason="hash") == 3
    assert value(HEALTHY, "gateway_liveness_refused_total", reason="sequence") == 0
    failed = replace(HEALTHY, liveness=(replace(HEALTHY.liveness[0], state="DOWN", verdict="down"),))
    assert value(failed, "gateway_liveness_up", **labels) == 0
    assert value(failed, "gateway_liveness_failed", **labels) == 1
