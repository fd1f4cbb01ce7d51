/* From the wire to the TUN through a whole data plane: ECN, what hostile datagrams move (nothing), what follows a peer.
 */
#include "plane.h"

enum { SPI_IN = 0x1001, ROOM = 70000 };

static struct site site;
static struct peer peer;
static uint64_t sequence;

static void open_both(int family, const struct esp_suite *suite) {
  sequence = 0;
  site_open(&site, 1, family, ESP_ENGINE_AUTO);
  peer_open(&peer, family, suite, SPI_IN);
  site_in(&site, SPI_IN, suite, &peer.local);
}

static void close_both(void) {
  peer_close(&peer);
  site_close(&site);
}

static uint8_t next_header_of(const uint8_t *inner) {
  return inner[0] >> 4 == 4 ? 4 : 41;
}

/* Sealed with the next number and sent from the peer's socket. */
static void deliver(const uint8_t *inner, size_t length, int tos) {
  static uint8_t packet[ROOM];
  size_t sealed = peer_seal(&peer, ++sequence, inner, length, next_header_of(inner), packet);
  datagram_send(peer.socket, &site.local, packet, sealed, tos, 0);
}

/* ---- RFC 6040 4.2 ---- */

enum { DROPPED = -1 };
/* [inner][outer], in the order Not-ECT, ECT(1), ECT(0), CE of the two bits. */
static const int decapsulated[4][4] = {
    {0, 0, 0, DROPPED},
    {1, 1, 1, 3},
    {2, 1, 2, 3},
    {3, 3, 3, 3},
};

static void one_ecn_case(bool ipv6, uint8_t protocol, int inner, int outer, uint64_t *dropped) {
  static uint8_t out[ROOM];
  uint8_t packet[200], expected[200];
  struct virtio_net_hdr_v1 vnet;
  struct recipe recipe = {
      .ipv6 = ipv6, .protocol = protocol, .tos = (uint8_t)(0xb8 | inner), .payload = 40, .id = 0xfffe};
  size_t length = build(packet, &recipe);
  deliver(packet, length, 0x28 | outer); /* the outer DSCP is not the inner one's business (RFC 4301 5.1.2.1) */
  if (decapsulated[inner][outer] == DROPPED) {
    expect_drops(&site, CONNECTION, DROP_ECN, ++*dropped);
    CHECK(host_receive(&site, &vnet, out, ROOM, 0) == -1);
    return;
  }
  recipe.tos = (uint8_t)(0xb8 | decapsulated[inner][outer]);
  CHECK(build(expected, &recipe) == length);
  CHECK(host_receive(&site, &vnet, out, ROOM, WAIT_MS) == (ssize_t)length);
  CHECK(memcmp(out, expected, length) == 0); /* the header checksum too */
}

static void the_ecn_table(int outer_family) {
  uint64_t dropped = 0;
  open_both(outer_family, &plane_gcm);
  for (int ipv6 = 0; ipv6 < 2; ipv6++)
    for (int inner = 0; inner < 4; inner++)
      for (int outer = 0; outer < 4; outer++)
        for (int tcp = 0; tcp < 2; tcp++)
          one_ecn_case(ipv6, tcp ? P_TCP : P_UDP, inner, outer, &dropped);
  CHECK(dropped == 4);
  close_both();
}

static void ecn_over_ipv4(void) {
  the_ecn_table(AF_INET);
}

static void ecn_over_ipv6(void) {
  the_ecn_table(AF_INET6);
}

/* Every header whose checksum needs a carry: RFC 1624 errs where RFC 1141 did. */
static void ecn_keeps_every_checksum_right(void) {
  static uint8_t out[ROOM];
  uint8_t packet[200];
  struct virtio_net_hdr_v1 vnet;
  open_both(AF_INET, &plane_gcm);
  for (uint32_t id = 0; id < 0x10000; id += 61) {
    struct recipe recipe = {.protocol = P_UDP, .tos = 2, .payload = 1, .id = (uint16_t)id};
    deliver(packet, build(packet, &recipe), 3);
    ssize_t got = host_receive(&site, &vnet, out, ROOM, WAIT_MS);
    CHECK(got == 29 && (out[1] & 3) == 3 && is_sound(out, (size_t)got, P_UDP));
  }
  close_both();
}

/* A congested segment does not merge with its neighbours, so the mark reaches the receiver. */
static void a_marked_segment_stays_alone(void) {
  static uint8_t out[ROOM];
  uint8_t packet[200];
  struct virtio_net_hdr_v1 vnet;
  open_both(AF_INET, &plane_gcm);
  for (uint32_t i = 0; i < 3; i++) {
    struct recipe recipe = {.tos = 2, .payload = 100, .sequence = 1000 + 100 * i};
    deliver(packet, build(packet, &recipe), i == 1 ? 3 : 2);
  }
  int marked = 0;
  size_t octets = 0;
  while (octets < 300) {
    ssize_t got = host_receive(&site, &vnet, out, ROOM, WAIT_MS);
    CHECK(got > 40);
    if ((out[1] & 3) == 3) CHECK(++marked == 1 && got == 140 && vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE);
    octets += (size_t)got - 40;
  }
  CHECK(marked == 1 && octets == 300);
  close_both();
}

/* ---- hostile datagrams ---- */

/* Random octets of every length, behind nothing, behind a known SPI, behind the non-ESN marker: nothing is delivered.
 */
static void no_scrap_gets_through(void) {
  static const uint32_t first[] = {SPI_IN, 0, 0xffffffff, 255, SPI_IN + 1};
  uint8_t data[80], out[200];
  struct virtio_net_hdr_v1 vnet;
  open_both(AF_INET, &plane_gcm);
  uint64_t sent = 0, punted = 0;
  for (size_t kind = 0; kind < 5; kind++) {
    for (size_t length = 0; length <= 80; length++) {
      random_fill(data, sizeof data);
      uint8_t head[4];
      put32(head, first[kind]);
      memcpy(data, head, length < 4 ? length : 4);
      datagram_send(peer.socket, &site.local, data, length, 0, 0);
      sent++;
      punted += first[kind] == 0 && length > 4;
    }
  }
  uint64_t seen = 0;
  for (int i = 0; i < WAIT_MS && seen < sent - punted; i++) {
    usleep(1000);
    seen = 0;
    for (int reason = 0; reason < DROP_REASON_COUNT; reason++)
      seen += site_drops(&site, 0, (enum drop_reason)reason) + site_drops(&site, CONNECTION, (enum drop_reason)reason);
  }
  CHECK(seen == sent - punted);
  size_t taken = 0;
  for (struct punt *punt = punts_drain(site.plane), *next; punt; punt = next, taken++) {
    next = punt->next;
    CHECK(punt->length <= 76);
    free(punt);
  }
  CHECK(taken == punted);
  CHECK(site_drops(&site, CONNECTION, DROP_TOO_SHORT) + site_drops(&site, CONNECTION, DROP_INTEGRITY) == 81 - 8);
  CHECK(host_receive(&site, &vnet, out, sizeof out, 0) == -1);
  struct sa_statistics *rows;
  size_t count;
  check_fault(sa_statistics(site.plane, &rows, &count));
  CHECK(count == 1 && rows[0].packets == 0 && rows[0].sequence == 0 && rows[0].last_used_ns == 0);
  free(rows);
  close_both();
}

/* RFC 4303 2.4, 2.6: an authentic text whose trailer lies. The engine seals it as it stands. */
static void lying_trailers_are_dropped(void) {
  static const struct lie {
    uint8_t text[8];
    size_t length;
    enum drop_reason reason;
  } lies[] = {
      {{1, 2, 255, 4}, 4, DROP_BAD_TRAILER},   /* padding longer than the text */
      {{0, 0, 3, 4}, 4, DROP_BAD_TRAILER},     /* one octet longer */
      {{0, 0, 2, 4}, 4, DROP_BAD_TRAILER},     /* padding not 1, 2 */
      {{1, 2, 2, 4}, 4, DROP_INNER_MALFORMED}, /* an empty packet */
      {{1, 2, 2, 59}, 4, DROP_DUMMY},          /* an empty dummy */
      {{1, 2, 2, 50}, 4, DROP_BAD_TRAILER},    /* ESP in ESP is no tunnel packet */
      {{1, 2, 2, 0}, 4, DROP_BAD_TRAILER},     /* hop-by-hop options */
      {{0x45, 0, 0, 4, 1, 2, 2, 4}, 8, DROP_INNER_MALFORMED},
      {{0x60, 0, 0, 0, 1, 2, 2, 41}, 8, DROP_INNER_MALFORMED},
  };
  uint64_t expected[DROP_REASON_COUNT] = {0};
  uint8_t packet[64], tag[16];
  open_both(AF_INET, &plane_gcm);
  struct aead_keying keying = {.suite = plane_gcm, .shape = {8, 16, 4, 16}, .cipher_key_length = 16, .seal = true};
  memcpy(keying.cipher_key, plane_key, 16);
  memcpy(keying.salt, plane_key + 16, 4);
  void *key = aead_openssl.key_new(&keying), *thread = aead_openssl.thread_new(40);
  for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
    put32(packet, SPI_IN);
    put32(packet + 4, (uint32_t)i + 1);
    memset(packet + 8, (int)i, 8);
    memcpy(packet + 16, lies[i].text, lies[i].length);
    struct aead_packet item = {.esp = packet, .text_length = lies[i].length, .sequence = i + 1};
    aead_openssl.seal(thread, key, &item, 1);
    memcpy(tag, packet + 16 + lies[i].length, 16);
    datagram_send(peer.socket, &site.local, packet, 32 + lies[i].length, 0, 0);
    expect_drops(&site, CONNECTION, lies[i].reason, ++expected[lies[i].reason]);
  }
  aead_openssl.key_free(key);
  aead_openssl.thread_free(thread);
  close_both();
}

/* Headers of an authentic inner packet that contradict themselves or the packet. */
static void lying_inner_headers_are_dropped(void) {
  static const struct lie {
    bool ipv6;
    size_t offset;
    uint8_t value;
  } lies[] = {
      {false, 0, 0x44}, /* IHL below 20 */
      {false, 0, 0x4f}, /* IHL beyond the packet */
      {false, 2, 0x40}, /* total length beyond the packet */
      {false, 3, 19},   /* total length below the header */
      {false, 0, 0x55}, /* version 5 */
      {false, 0, 0x65}, /* version 6 under next header 4 */
      {true, 4, 0x10},  /* payload length beyond the packet */
      {true, 0, 0x45},  /* version 4 under next header 41 */
      {true, 0, 0x00},
  };
  uint8_t inner[200], packet[400];
  open_both(AF_INET, &plane_gcm);
  uint64_t malformed = 0;
  for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
    struct recipe recipe = {.ipv6 = lies[i].ipv6, .protocol = P_UDP, .payload = 8};
    size_t length = build(inner, &recipe);
    inner[lies[i].offset] = lies[i].value;
    if (!lies[i].ipv6 && lies[i].offset == 3) inner[2] = 0;
    size_t sealed = peer_seal(&peer, ++sequence, inner, length, lies[i].ipv6 ? 41 : 4, packet);
    datagram_send(peer.socket, &site.local, packet, sealed, 0, 0);
    expect_drops(&site, CONNECTION, DROP_INNER_MALFORMED, ++malformed);
  }
  struct virtio_net_hdr_v1 vnet;
  CHECK(host_receive(&site, &vnet, packet, sizeof packet, 0) == -1);
  close_both();
}

/* ---- the peer's address ---- */

static size_t moves(struct event *last) {
  struct event events[64];
  size_t count = site_events(&site, events, 64), found = 0;
  for (size_t i = 0; i < count; i++) {
    if (events[i].kind != EVENT_PEER_MOVED) continue;
    *last = events[i];
    found++;
  }
  return found;
}

/* Authentic packets that come from two ports in turn, many in a second: a move a second is told, none gets lost. */
static void moves_are_told_once_a_second(void) {
  static uint8_t out[ROOM];
  uint8_t inner[100], packet[300];
  struct virtio_net_hdr_v1 vnet;
  struct event event;
  open_both(AF_INET, &plane_gcm);
  int elsewhere = loopback_socket(AF_INET);
  struct endpoint other = endpoint_of(elsewhere);
  struct recipe recipe = {.protocol = P_UDP, .payload = 8};
  size_t length = build(inner, &recipe), told = 0;
  uint64_t before = now_ns() / 1000000000u;
  for (int i = 0; i < 200; i++) {
    size_t sealed = peer_seal(&peer, ++sequence, inner, length, 4, packet);
    datagram_send(i % 2 ? peer.socket : elsewhere, &site.local, packet, sealed, 0, 0);
    CHECK(host_receive(&site, &vnet, out, ROOM, WAIT_MS) == (ssize_t)length);
    told += moves(&event);
  }
  uint64_t seconds = now_ns() / 1000000000u - before + 1;
  CHECK(told >= 1 && told <= seconds);
  /* Settled at the other end, that is where the last word puts the peer. */
  while (now_ns() / 1000000000u - before <= seconds)
    usleep(20000);
  for (int i = 0; i < 3; i++) {
    size_t sealed = peer_seal(&peer, ++sequence, inner, length, 4, packet);
    datagram_send(elsewhere, &site.local, packet, sealed, 0, 0);
    CHECK(host_receive(&site, &vnet, out, ROOM, WAIT_MS) == (ssize_t)length);
  }
  moves(&event);
  struct sa *sa = sa_find(site.plane, true, CONNECTION, SPI_IN);
  CHECK(sa->peer.port == other.port);
  char text[EVENT_DETAIL_MAX + 1] = {0}, expected[64];
  memcpy(text, event.detail, event.length);
  snprintf(expected, sizeof expected, "127.0.0.1 %u", other.port);
  CHECK(strcmp(text, expected) == 0);
  close(elsewhere);
  close_both();
}

/* ---- events that find no room ---- */

static void fill_ring(void) {
  while (event_raise(site.plane, EVENT_EXPIRE_SOFT, 1, 2, "", 0))
    ;
}

/* How many of a kind were waiting. */
static size_t drained(enum event_kind kind) {
  struct event events[64];
  size_t found = 0;
  for (size_t count; (count = site_events(&site, events, 64)) > 0;)
    for (size_t i = 0; i < count; i++)
      found += events[i].kind == kind && events[i].spi == SPI_IN;
  return found;
}

static void deliver_from(int fd) {
  static uint8_t out[ROOM];
  uint8_t inner[100], packet[300];
  struct virtio_net_hdr_v1 vnet;
  struct recipe recipe = {.protocol = P_UDP, .payload = 8};
  size_t length = build(inner, &recipe), sealed = peer_seal(&peer, ++sequence, inner, length, 4, packet);
  datagram_send(fd, &site.local, packet, sealed, 0, 0);
  CHECK(host_receive(&site, &vnet, out, ROOM, WAIT_MS) == (ssize_t)length);
}

/* The peer moves once. */
static void a_move_without_room_is_told_by_the_next_packet(void) {
  struct event event;
  open_both(AF_INET, &plane_gcm);
  int elsewhere = loopback_socket(AF_INET);
  deliver_from(peer.socket);
  fill_ring();
  deliver_from(elsewhere);
  deliver_from(elsewhere);
  CHECK(drained(EVENT_PEER_MOVED) == 0);
  deliver_from(elsewhere);
  CHECK(moves(&event) == 1 && event.spi == SPI_IN);
  deliver_from(elsewhere);
  CHECK(moves(&event) == 0);
  close(elsewhere);
  close_both();
}

/* An SA that goes on with what a process before this one saw: the window's top counts, not these packets. */
static void numbers_that_run_out_are_told(void) {
  uint64_t soft = UINT32_MAX / 10 * 8;
  open_both(AF_INET, &plane_gcm);
  check_fault(sa_remove(site.plane, true, CONNECTION, SPI_IN));
  struct sa_request request = sa_like(&site, true, SPI_IN, &plane_gcm, &peer.local);
  request.sequence = sequence = soft - 2;
  check_fault(sa_add(site.plane, &request));
  deliver_from(peer.socket);
  CHECK(drained(EVENT_EXPIRE_SOFT) == 0);
  fill_ring();
  deliver_from(peer.socket);
  CHECK(drained(EVENT_EXPIRE_SOFT) == 0);
  deliver_from(peer.socket);
  deliver_from(peer.socket);
  CHECK(drained(EVENT_EXPIRE_SOFT) == 1);
  close_both();
}

static void a_stop_without_room_is_told_by_a_refused_packet(void) {
  uint8_t inner[100];
  struct recipe recipe = {.protocol = P_UDP, .payload = 8};
  open_both(AF_INET, &plane_gcm);
  check_fault(sa_remove(site.plane, true, CONNECTION, SPI_IN));
  struct sa_request request = sa_like(&site, true, SPI_IN, &plane_gcm, &peer.local);
  request.limits.hard_packets = 2;
  check_fault(sa_add(site.plane, &request));
  deliver_from(peer.socket);
  fill_ring();
  deliver_from(peer.socket);
  CHECK(drained(EVENT_EXPIRE_HARD) == 0);
  for (uint64_t refused = 1; refused <= 2; refused++) {
    deliver(inner, build(inner, &recipe), 0);
    expect_drops(&site, CONNECTION, DROP_HARD_LIMIT, refused);
  }
  CHECK(drained(EVENT_EXPIRE_HARD) == 1);
  close_both();
}

/* Forged, replayed or late, from elsewhere: the peer stays where it was. */
static void only_news_from_the_peer_moves_it(void) {
  static uint8_t out[ROOM];
  uint8_t inner[100], first[300], late[300], forged[300];
  struct virtio_net_hdr_v1 vnet;
  struct event event;
  struct recipe recipe = {.protocol = P_UDP, .payload = 8};
  open_both(AF_INET, &plane_gcm);
  int elsewhere = loopback_socket(AF_INET);
  size_t length = build(inner, &recipe);
  size_t sealed = peer_seal(&peer, 10, inner, length, 4, first);
  peer_seal(&peer, 9, inner, length, 4, late);
  peer_seal(&peer, 11, inner, length, 4, forged);
  datagram_send(peer.socket, &site.local, first, sealed, 0, 0);
  CHECK(host_receive(&site, &vnet, out, ROOM, WAIT_MS) == (ssize_t)length);
  for (size_t i = 0; i < sealed; i++) {
    uint8_t damaged[300];
    memcpy(damaged, forged, sealed);
    damaged[i] ^= 0x10;
    datagram_send(elsewhere, &site.local, damaged, sealed, 0, 0);
  }
  datagram_send(elsewhere, &site.local, first, sealed, 0, 0);
  datagram_send(elsewhere, &site.local, late, sealed, 0, 0); /* authentic, but no news */
  CHECK(host_receive(&site, &vnet, out, ROOM, WAIT_MS) == (ssize_t)length);
  CHECK(moves(&event) == 0);
  CHECK(sa_find(site.plane, true, CONNECTION, SPI_IN)->peer.port == peer.local.port);
  close(elsewhere);
  close_both();
}

/* RFC 4303 3.4.3, A2: numbers cross 2^32, reordered, in GRO buffers of several. */
static void esn_crosses_two_to_the_32_out_of_order(void) {
  enum { COUNT = 300, BUNDLE = 20 };
  static uint8_t out[ROOM], bundle[BUNDLE * 200];
  uint8_t inner[100];
  uint64_t order[COUNT];
  struct virtio_net_hdr_v1 vnet;
  open_both(AF_INET, &plane_gcm_esn);
  struct sa *sa = sa_find(site.plane, true, CONNECTION, SPI_IN);
  uint64_t base = (UINT64_C(5) << 32) - COUNT / 2;
  sa->window.top = base - 1; /* as after 5 * 2^32 packets */
  for (size_t i = 0; i < COUNT; i++)
    order[i] = base + i;
  for (size_t i = 0; i + 1 < COUNT; i++) { /* each at most 30 places early or late */
    size_t j = i + random_below(COUNT - i < 30 ? COUNT - i : 30);
    uint64_t swapped = order[i];
    order[i] = order[j];
    order[j] = swapped;
  }
  struct recipe recipe = {.protocol = P_TCP, .flags = 0x02}; /* a SYN goes alone */
  size_t length = build(inner, &recipe), sealed = 0;
  for (size_t i = 0; i < COUNT; i += BUNDLE) {
    for (size_t k = 0; k < BUNDLE; k++)
      sealed = peer_seal(&peer, order[i + k], inner, length, 4, bundle + k * sealed);
    datagram_send(peer.socket, &site.local, bundle, BUNDLE * sealed, 0, (uint16_t)sealed);
    for (size_t k = 0; k < BUNDLE; k++)
      CHECK(host_receive(&site, &vnet, out, ROOM, WAIT_MS) == (ssize_t)length);
  }
  for (size_t i = 0; i < COUNT; i += BUNDLE) { /* every one of them again */
    for (size_t k = 0; k < BUNDLE; k++)
      peer_seal(&peer, order[i + k], inner, length, 4, bundle + k * sealed);
    datagram_send(peer.socket, &site.local, bundle, BUNDLE * sealed, 0, (uint16_t)sealed);
  }
  expect_drops(&site, CONNECTION, DROP_REPLAY, COUNT);
  CHECK(sa->window.top == base + COUNT - 1 && host_receive(&site, &vnet, out, ROOM, 0) == -1);
  close_both();
}

int main(void) {
  RUN(ecn_over_ipv4);
  RUN(ecn_over_ipv6);
  RUN(ecn_keeps_every_checksum_right);
  RUN(a_marked_segment_stays_alone);
  RUN(no_scrap_gets_through);
  RUN(lying_trailers_are_dropped);
  RUN(lying_inner_headers_are_dropped);
  RUN(moves_are_told_once_a_second);
  RUN(a_move_without_room_is_told_by_the_next_packet);
  RUN(numbers_that_run_out_are_told);
  RUN(a_stop_without_room_is_told_by_a_refused_packet);
  RUN(only_news_from_the_peer_moves_it);
  RUN(esn_crosses_two_to_the_32_out_of_order);
  return 0;
}
