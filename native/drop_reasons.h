/* Every reason for which the data plane drops a packet: label, direction, help. One list makes the C enum, the Python
 * names, the metric label and the table in docs/. */
#ifndef GATEWAY_DROP_REASONS_H
#define GATEWAY_DROP_REASONS_H

#define FOREACH_DROP_REASON(_)                                                                                         \
  _(NO_SA, "no_sa", "outbound: no CHILD_SA matches the packet; dropped, never sent in clear")                          \
  _(SEQUENCE_EXHAUSTED, "sequence_exhausted", "outbound: sequence number limit reached; awaiting rekey")               \
  _(NOT_ACTIVE, "not_active", "outbound: an SA of the pair, and this gateway is not the active one")                   \
  _(HARD_LIMIT, "hard_limit", "the SA reached its hard limit of octets or packets")                                    \
  _(TOO_BIG, "too_big", "outbound: larger than the inner MTU; ICMP sent where allowed")                                \
  _(INNER_MALFORMED, "inner_malformed", "not an IP packet the data plane can carry (either direction)")                \
  _(SEAL_FAILED, "seal_failed", "outbound: the cipher or the random generator failed; wiped, never sent")              \
  _(LOOP, "loop", "outbound: the tunnel's own ESP was routed into the tunnel")                                         \
  _(SEND_FAILED, "send_failed", "outbound: the socket refused the datagram")                                           \
  _(TUN_READ_FAILED, "tun_read_failed", "outbound: a TUN queue failed; not a packet but a queue, read no more")        \
  _(TUN_PACKET_LOST, "tun_packet_lost", "outbound: the kernel took it from a TUN queue and could not hand it over")    \
  _(TUN_QUEUE_FULL, "tun_queue_full", "outbound: the kernel dropped it before the data plane, which was behind")       \
  _(UNKNOWN_SPI, "unknown_spi", "inbound: no SA with this SPI")                                                        \
  _(TOO_SHORT, "too_short", "inbound: shorter than its suite allows")                                                  \
  _(REPLAY, "replay", "inbound: sequence number seen before or left of the window")                                    \
  _(INTEGRITY, "integrity", "inbound: ICV did not verify")                                                             \
  _(BAD_TRAILER, "bad_trailer", "inbound: ESP trailer inconsistent after a good ICV")                                  \
  _(SELECTOR, "selector", "inbound: inner packet outside the SA's selectors")                                          \
  _(ECN, "ecn", "inbound: marked congested on the way, though its sender knows no ECN (RFC 6040 4.2)")                 \
  _(DUMMY, "dummy", "inbound: dummy packet (next header 59, RFC 4303 2.6)")                                            \
  _(TUN_WRITE_FAILED, "tun_write_failed", "inbound: the TUN refused the packet")                                       \
  _(PUNT_FULL, "punt_full", "inbound: IKE datagrams faster than the control plane reads")                              \
  _(KEEPALIVE, "keepalive", "inbound: NAT keepalive (RFC 3948 2.3), expected")

enum drop_reason {
#define DROP_ENUM(name, label, help) DROP_##name,
  FOREACH_DROP_REASON(DROP_ENUM)
#undef DROP_ENUM
      DROP_REASON_COUNT
};

#endif
