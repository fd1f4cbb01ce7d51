/* From the TUN to the wire through a whole data plane: TOS and ECN, numbers, what is never sent, ICMP "too big". */
#include <openssl/rand.h>

#include "plane.h"

enum { SPI_OUT = 0x3003, ROOM = 70000 };

/* Link with --wrap=RAND_bytes. */
static _Atomic int random_failures;
int __real_RAND_bytes(unsigned char *out, int length);
int __wrap_RAND_bytes(unsigned char *out, int length);
int __wrap_RAND_bytes(unsigned char *out, int length) {
  if (random_failures > 0) {
    random_failures--;
    return 0;
  }
  return __real_RAND_bytes(out, length);
}

static struct site site;
static struct peer peer;

static void open_both(int family, const struct esp_suite *suite) {
  site_open(&site, 1, family, ESP_ENGINE_AUTO);
  peer_open(&peer, family, suite, SPI_OUT);
  site_out(&site, SPI_OUT, suite, &peer.local);
}

static void close_both(void) {
  CHECK(random_failures == 0);
  peer_close(&peer);
  site_close(&site);
}

static struct sa *sa_out(void) {
  return sa_find(site.plane, false, CONNECTION, SPI_OUT);
}

/* The next ESP packet on the wire, opened: its sequence number, its inner packet in `inner`; 0 when there is none. */
static uint64_t next_sealed(uint64_t high, uint8_t *inner, size_t *length, int *tos, int wait_ms) {
  static uint8_t packet[ROOM];
  ssize_t got = datagram_receive(peer.socket, packet, sizeof packet, tos, wait_ms);
  if (got < 0) return 0;
  CHECK(got >= 32 && get32(packet) == SPI_OUT);
  struct esp_open_item item = peer_unseal(&peer, packet, (size_t)got, high);
  CHECK(item.result == ESP_OK && item.next_header == (item.payload[0] >> 4 == 4 ? 4 : 41));
  memcpy(inner, item.payload, item.payload_length);
  *length = item.payload_length;
  return item.sequence;
}

static void expect_silence(void) {
  uint8_t inner[2000];
  size_t length;
  int tos;
  CHECK(next_sealed(0, inner, &length, &tos, 50) == 0);
}

/* ---- RFC 4301 5.1.2.1, RFC 6040 4.1 ---- */

/* Equal sizes, so that nothing but the TOS breaks a run. */
static void tos_and_ecn_are_copied_to_the_outer_header(int family, bool ipv6) {
  static const uint8_t marks[] = {0, 2, 2, 3, 1, 0xb8, 0xba, 0, 0xff, 0xff, 0x03, 0};
  uint8_t packet[300], inner[300];
  size_t length;
  int tos;
  open_both(family, &plane_gcm);
  for (uint32_t i = 0; i < sizeof marks; i++) {
    struct recipe recipe = {.ipv6 = ipv6, .tos = marks[i], .payload = 100, .sequence = 7 * i};
    host_send(&site, NULL, packet, build(packet, &recipe));
  }
  for (uint32_t i = 0; i < sizeof marks; i++) {
    struct recipe recipe = {.ipv6 = ipv6, .tos = marks[i], .payload = 100, .sequence = 7 * i};
    size_t expected = build(packet, &recipe);
    CHECK(next_sealed(0, inner, &length, &tos, WAIT_MS) == i + 1);
    CHECK(tos == marks[i] && length == expected && memcmp(inner, packet, expected) == 0);
  }
  close_both();
}

static void tos_inside_ipv4(void) {
  tos_and_ecn_are_copied_to_the_outer_header(AF_INET, false);
  tos_and_ecn_are_copied_to_the_outer_header(AF_INET, true);
}

static void tos_inside_ipv6(void) {
  tos_and_ecn_are_copied_to_the_outer_header(AF_INET6, false);
  tos_and_ecn_are_copied_to_the_outer_header(AF_INET6, true);
}

/* An IPv4 peer through a socket bound to ::, with the source address given by packet information. */
static void tos_through_a_dual_stack_socket(void) {
  uint8_t packet[300], inner[300];
  size_t length;
  int tos, off = 0, dual = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in6 any = {.sin6_family = AF_INET6};
  uint32_t spi = SPI_OUT;
  CHECK(setsockopt(dual, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0);
  CHECK(bind(dual, (struct sockaddr *)&any, sizeof any) == 0);
  site_open(&site, 1, AF_INET, ESP_ENGINE_AUTO);
  peer_open(&peer, AF_INET, &plane_gcm, SPI_OUT);
  struct sa_request request = sa_like(&site, false, SPI_OUT, &plane_gcm, &peer.local);
  request.socket = dual;
  check_fault(sa_add(site.plane, &request));
  check_fault(policies_replace(site.plane, CONNECTION, &spi, 1));
  for (uint8_t mark = 0; mark < 4; mark++) {
    struct recipe recipe = {.tos = (uint8_t)(0x48 | mark), .payload = 10};
    host_send(&site, NULL, packet, build(packet, &recipe));
    CHECK(next_sealed(0, inner, &length, &tos, WAIT_MS) == mark + 1u && tos == (0x48 | mark));
  }
  close_both();
  close(dual);
}

/* Every segment of a super-packet carries the mark; two super-packets of different marks read in one turn keep apart.
 */
static void super_packets_keep_their_marks(void) {
  static uint8_t packet[ROOM], inner[ROOM];
  size_t length;
  int tos;
  struct virtio_net_hdr_v1 vnet = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                   .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                   .hdr_len = 40,
                                   .gso_size = 1000,
                                   .csum_start = 20,
                                   .csum_offset = 16};
  open_both(AF_INET, &plane_gcm);
  for (uint32_t i = 0; i < 3; i++) {
    struct recipe recipe = {.tos = (uint8_t)(2 - i), .payload = 20 * 1000, .sequence = 20000 * i};
    size_t octets = build(packet, &recipe);
    make_partial(packet, octets, P_TCP);
    host_send(&site, &vnet, packet, octets);
  }
  for (uint32_t i = 0; i < 60; i++) {
    CHECK(next_sealed(0, inner, &length, &tos, WAIT_MS) == i + 1);
    CHECK(length == 1040 && is_sound(inner, length, P_TCP) && get32(inner + 24) == 1000 * i);
    CHECK((uint32_t)tos == 2 - i / 20 && inner[1] == tos);
  }
  expect_silence();
  close_both();
}

/* ---- what is never sent ---- */

static size_t udp_to(uint8_t *out, const uint8_t source[4], const uint8_t destination[4], uint16_t port,
                     uint16_t fragment) {
  struct recipe recipe = {.protocol = P_UDP, .payload = 64, .fragment = fragment};
  size_t length = build(out, &recipe);
  memcpy(out + 12, source, 4);
  memcpy(out + 16, destination, 4);
  put16(out + 22, port);
  put16(out + 10, 0);
  put16(out + 10, (uint16_t)~slow_sum(0, out, 20));
  return length;
}

/* The tunnel's own ESP, whole or in fragments, routed back into the tunnel. */
static void own_esp_is_not_sealed_again(void) {
  static const uint8_t here[4] = {127, 0, 0, 1}, other[4] = {10, 1, 2, 3};
  uint8_t packet[200], inner[200];
  size_t length;
  int tos;
  open_both(AF_INET, &plane_gcm);
  uint16_t port = peer.local.port;
  host_send(&site, NULL, packet, udp_to(packet, here, here, port, 0));
  host_send(&site, NULL, packet, udp_to(packet, here, here, port, 0x2000));
  host_send(&site, NULL, packet, udp_to(packet, here, here, port, 0x0010)); /* shows no port */
  expect_drops(&site, CONNECTION, DROP_LOOP, 3);
  expect_silence();
  /* Near misses are ordinary traffic: another port, another source, another destination. */
  host_send(&site, NULL, packet, udp_to(packet, here, here, (uint16_t)(port ^ 1), 0));
  host_send(&site, NULL, packet, udp_to(packet, other, here, port, 0));
  host_send(&site, NULL, packet, udp_to(packet, here, other, port, 0));
  for (uint64_t i = 1; i <= 3; i++)
    CHECK(next_sealed(0, inner, &length, &tos, WAIT_MS) == i);
  expect_drops(&site, CONNECTION, DROP_LOOP, 3);
  close_both();
}

/* IVs of CBC come 256 at a time from the random generator. It fails once in the middle of a burst, then for long:
 * what could not be sealed is counted, its number stays used, and no datagram, not even an empty one, leaves for it. */
static void what_cannot_be_sealed_never_leaves(void) {
  enum { IVS = 256, BEFORE = 250, SEGMENTS = 20, SIZE = 500 };
  static uint8_t packet[ROOM], inner[ROOM];
  size_t length;
  int tos;
  struct virtio_net_hdr_v1 vnet = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                   .gso_type = VIRTIO_NET_HDR_GSO_UDP_L4,
                                   .hdr_len = 28,
                                   .gso_size = SIZE,
                                   .csum_start = 20,
                                   .csum_offset = 6};
  struct recipe one = {.protocol = P_UDP, .payload = 8}, many = {.protocol = P_UDP, .payload = SEGMENTS * SIZE};
  open_both(AF_INET, &plane_cbc);
  for (uint64_t i = 1; i <= BEFORE; i++) {
    host_send(&site, NULL, packet, build(packet, &one));
    CHECK(next_sealed(0, inner, &length, &tos, WAIT_MS) == i);
  }
  random_failures = 1;
  for (int half = 0; half < 2; half++) { /* two marks, that none slides over the gap */
    struct recipe recipe = {
        .protocol = P_UDP, .tos = (uint8_t)(4 * half), .payload = SEGMENTS / 2 * SIZE, .seed = (uint8_t)half};
    size_t octets = build(packet, &recipe);
    make_partial(packet, octets, P_UDP);
    host_send(&site, &vnet, packet, octets);
  }
  for (uint64_t i = BEFORE + 1; i <= BEFORE + SEGMENTS; i++) {
    size_t half = i > BEFORE + SEGMENTS / 2, at = (size_t)(i - BEFORE - 1) % (SEGMENTS / 2) * SIZE;
    struct recipe recipe = {.protocol = P_UDP, .payload = SEGMENTS / 2 * SIZE, .seed = (uint8_t)half};
    if (i == IVS + 1) continue;
    CHECK(next_sealed(0, inner, &length, &tos, WAIT_MS) == i);
    CHECK(length == SIZE + 28 && is_sound(inner, length, P_UDP) && tos == 4 * (int)half && inner[1] == tos);
    build(packet, &recipe);
    CHECK(memcmp(inner + 28, packet + 28 + at, SIZE) == 0);
  }
  expect_drops(&site, CONNECTION, DROP_SEAL_FAILED, 1);
  expect_silence();

  while (sa_out()->sequence < 2 * IVS + 1) { /* one IV was asked for in vain */
    host_send(&site, NULL, packet, build(packet, &one));
    CHECK(next_sealed(0, inner, &length, &tos, WAIT_MS) > 0);
  }
  random_failures = SEGMENTS;
  size_t octets = build(packet, &many);
  make_partial(packet, octets, P_UDP);
  host_send(&site, &vnet, packet, octets);
  expect_drops(&site, CONNECTION, DROP_SEAL_FAILED, 1 + SEGMENTS);
  expect_silence();
  host_send(&site, NULL, packet, build(packet, &one));
  CHECK(next_sealed(0, inner, &length, &tos, WAIT_MS) == 2 * IVS + 1 + SEGMENTS + 1);
  CHECK(site_drops(&site, CONNECTION, DROP_SEND_FAILED) == 0);
  close_both();
}

/* ---- sequence numbers ---- */

static void send_many(size_t count) {
  uint8_t packet[200];
  struct recipe recipe = {.protocol = P_UDP, .payload = 20};
  size_t length = build(packet, &recipe);
  for (size_t i = 0; i < count; i++)
    host_send(&site, NULL, packet, length);
}

/* RFC 4303 3.3.3: without ESN 2^32 - 1 is the last one, whatever was granted. */
static void an_sa_refuses_to_wrap(void) {
  uint8_t inner[200];
  size_t length;
  int tos;
  open_both(AF_INET, &plane_gcm);
  sa_out()->sequence = UINT32_MAX - 3;
  send_many(10);
  for (uint64_t i = UINT32_MAX - UINT64_C(2); i <= UINT32_MAX; i++)
    CHECK(next_sealed(0, inner, &length, &tos, WAIT_MS) == i);
  expect_drops(&site, CONNECTION, DROP_SEQUENCE_EXHAUSTED, 7);
  check_fault(sa_grant(site.plane, CONNECTION, SPI_OUT, UINT64_MAX));
  send_many(200); /* more than a burst */
  expect_drops(&site, CONNECTION, DROP_SEQUENCE_EXHAUSTED, 207);
  CHECK(sa_out()->sequence == UINT32_MAX);
  expect_silence();
  close_both();
}

/* RFC 4303 2.2.1: the high half is in no packet, but under the ICV, and the IV goes on. */
static void esn_goes_on_beyond_two_to_the_32(void) {
  uint8_t inner[200];
  size_t length;
  int tos;
  open_both(AF_INET, &plane_gcm_esn);
  uint64_t start = (UINT64_C(9) << 32) - 5;
  sa_out()->sequence = start;
  check_fault(sa_grant(site.plane, CONNECTION, SPI_OUT, start + 10));
  send_many(12);
  for (uint64_t i = start + 1; i <= start + 10; i++)
    CHECK(next_sealed(i >> 32, inner, &length, &tos, WAIT_MS) == i);
  expect_drops(&site, CONNECTION, DROP_SEQUENCE_EXHAUSTED, 2);
  expect_silence();
  close_both();
}

/* A grant below what was used gives nothing and takes nothing back. */
static void a_grant_may_be_lowered(void) {
  uint8_t inner[200];
  size_t length;
  int tos;
  open_both(AF_INET, &plane_gcm);
  send_many(5);
  for (uint64_t i = 1; i <= 5; i++)
    CHECK(next_sealed(0, inner, &length, &tos, WAIT_MS) == i);
  check_fault(sa_grant(site.plane, CONNECTION, SPI_OUT, 2));
  send_many(4);
  expect_drops(&site, CONNECTION, DROP_SEQUENCE_EXHAUSTED, 4);
  check_fault(sa_grant(site.plane, CONNECTION, SPI_OUT, 6));
  send_many(1);
  CHECK(next_sealed(0, inner, &length, &tos, WAIT_MS) == 6);
  close_both();
}

/* An SA of the pair sends nothing before it is granted something, and nothing once the lease is over, whoever still
 * runs. */
static void a_fenced_sa_sends_only_before_the_fence(void) {
  uint8_t inner[200];
  size_t length;
  int tos;
  uint32_t spi = SPI_OUT;
  site_open(&site, 1, AF_INET, ESP_ENGINE_AUTO);
  peer_open(&peer, AF_INET, &plane_gcm, SPI_OUT);
  struct sa_request request = sa_like(&site, false, SPI_OUT, &plane_gcm, &peer.local);
  request.fenced = true;
  request.sequence = 70;
  check_fault(sa_add(site.plane, &request));
  check_fault(policies_replace(site.plane, CONNECTION, &spi, 1));
  send_many(1);
  expect_drops(&site, CONNECTION, DROP_NOT_ACTIVE, 1);
  fence_move(site.plane, UINT64_MAX);
  send_many(1);
  expect_drops(&site, CONNECTION, DROP_SEQUENCE_EXHAUSTED, 1);
  check_fault(sa_grant(site.plane, CONNECTION, SPI_OUT, 80));
  send_many(1);
  CHECK(next_sealed(0, inner, &length, &tos, WAIT_MS) == 71);
  fence_move(site.plane, boottime_ns() + 200 * UINT64_C(1000000));
  send_many(1);
  CHECK(next_sealed(0, inner, &length, &tos, WAIT_MS) == 72);
  usleep(201 * 1000);
  send_many(1);
  expect_drops(&site, CONNECTION, DROP_NOT_ACTIVE, 2);
  expect_silence();
  close_both();
}

/* ---- RFC 1191 4, RFC 4443 3.2 ---- */

static size_t too_big(uint8_t *out, bool ipv6, size_t payload) {
  struct recipe recipe = {.ipv6 = ipv6, .protocol = P_UDP, .payload = payload};
  return build(out, &recipe);
}

static void icmp_says_how_big_a_packet_may_be(void) {
  uint8_t packet[3000], out[3000];
  struct virtio_net_hdr_v1 vnet;
  open_both(AF_INET, &plane_gcm);
  size_t length = too_big(packet, false, SITE_MTU + 1 - 28);
  host_send(&site, NULL, packet, length);
  ssize_t got = host_receive(&site, &vnet, out, sizeof out, WAIT_MS);
  CHECK(got == 576 && vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE && vnet.flags == 0);
  CHECK(get16(out + 2) == got && slow_sum(0, out, 20) == 0xffff && out[9] == IPPROTO_ICMP && out[8] > 1);
  CHECK(memcmp(out + 12, packet + 16, 4) == 0 && memcmp(out + 16, packet + 12, 4) == 0);
  CHECK(out[20] == 3 && out[21] == 4 && get16(out + 24) == 0 && get16(out + 26) == SITE_MTU);
  CHECK(slow_sum(0, out + 20, (size_t)got - 20) == 0xffff);
  CHECK(memcmp(out + 28, packet, (size_t)got - 28) == 0);

  length = too_big(packet, true, SITE_MTU + 1 - 48);
  host_send(&site, NULL, packet, length);
  got = host_receive(&site, &vnet, out, sizeof out, WAIT_MS);
  CHECK(got == 1280 && get16(out + 4) == got - 40 && out[6] == IPPROTO_ICMPV6);
  CHECK(memcmp(out + 8, packet + 24, 16) == 0 && memcmp(out + 24, packet + 8, 16) == 0);
  CHECK(out[40] == 2 && out[41] == 0 && get32(out + 44) == SITE_MTU);
  CHECK(slow_sum(slow_pseudo(out, IPPROTO_ICMPV6, (size_t)got - 40), out + 40, (size_t)got - 40) == 0xffff);
  CHECK(memcmp(out + 48, packet, (size_t)got - 48) == 0);
  expect_drops(&site, CONNECTION, DROP_TOO_BIG, 2);
  expect_silence();
  close_both();
}

/* RFC 1122 3.2.2, RFC 4443 2.4 (e). */
static void icmp_answers_no_error_no_fragment_and_no_crowd(void) {
  static const uint8_t sources[][4] = {{0, 0, 0, 0}, {224, 0, 0, 1}, {255, 255, 255, 255}, {127, 0, 0, 1}};
  uint8_t packet[3000], out[3000];
  struct virtio_net_hdr_v1 vnet;
  uint64_t dropped = 0;
  open_both(AF_INET, &plane_gcm);
  for (size_t i = 0; i < sizeof sources / sizeof sources[0]; i++) {
    size_t length = too_big(packet, false, 2000);
    memcpy(packet + 12, sources[i], 4);
    host_send(&site, NULL, packet, length);
    dropped++;
  }
  size_t length = too_big(packet, false, 2000);
  packet[16] = 239; /* to a group */
  host_send(&site, NULL, packet, length);
  length = too_big(packet, false, 2000);
  packet[9] = IPPROTO_ICMP;
  static const uint8_t errors[] = {3, 4, 5, 11, 12, 99};
  for (size_t i = 0; i < sizeof errors; i++) {
    packet[20] = errors[i];
    host_send(&site, NULL, packet, length);
  }
  put16(packet + 6, 0x4010); /* a later fragment */
  packet[9] = P_UDP;
  host_send(&site, NULL, packet, length);
  dropped += 1 + sizeof errors + 1;
  length = too_big(packet, true, 2000);
  packet[6] = IPPROTO_ICMPV6;
  packet[40] = 1;
  host_send(&site, NULL, packet, length);
  length = too_big(packet, true, 2000);
  packet[24] = 0xff;
  host_send(&site, NULL, packet, length);
  length = too_big(packet, true, 2000);
  memset(packet + 8, 0, 16);
  host_send(&site, NULL, packet, length);
  static const uint8_t hidden[][8] = {{IPPROTO_ICMPV6, 0, 1, 4}, {IPPROTO_ICMPV6, 0, 0x05, 0x38}};
  for (size_t i = 0; i < 2; i++) { /* an error behind destination options, and whatever a later fragment is of */
    length = too_big(packet, true, 2000);
    packet[6] = i ? IPPROTO_FRAGMENT : IPPROTO_DSTOPTS;
    memcpy(packet + 40, hidden[i], 8);
    packet[48] = 1;
    host_send(&site, NULL, packet, length);
  }
  dropped += 5;
  expect_drops(&site, CONNECTION, DROP_TOO_BIG, dropped);
  CHECK(host_receive(&site, &vnet, out, sizeof out, 50) == -1);
  close_both();
}

static void icmp_is_rationed(void) {
  enum { FLOOD = 1000, A_SECOND = 100 };
  uint8_t packet[3000], out[3000];
  struct virtio_net_hdr_v1 vnet;
  open_both(AF_INET, &plane_gcm);
  uint64_t before = now_ns() / 1000000000u;
  size_t length = too_big(packet, false, 2000), answers = 0;
  for (int i = 0; i < FLOOD; i++) {
    host_send(&site, NULL, packet, length);
    if (i % 20 == 0)
      while (host_receive(&site, &vnet, out, sizeof out, 0) > 0)
        answers++;
  }
  expect_drops(&site, CONNECTION, DROP_TOO_BIG, FLOOD);
  uint64_t seconds = now_ns() / 1000000000u - before + 1;
  while (host_receive(&site, &vnet, out, sizeof out, 0) > 0)
    answers++;
  CHECK(answers >= A_SECOND && answers <= seconds * A_SECOND);
  close_both();
}

/* RFC 791 3.1, 3.2: every fragment sound, options that are not copied blanked, the whole reassembled. */
static void fragments_carry_options_only_where_they_belong(void) {
  static const uint8_t options[12] = {7, 7, 4, 0, 0, 0, 0 /* record route */, 0x94, 4, 0, 0 /* router alert */, 0};
  uint8_t packet[4000], inner[4000], whole[4000];
  size_t length, seen = 0;
  int tos;
  open_both(AF_INET, &plane_gcm);
  struct recipe recipe = {.protocol = P_UDP, .payload = 3000, .ip_options = 12, .fragment = 0x8000};
  size_t octets = build(packet, &recipe);
  put16(packet + 6, 0); /* may be fragmented */
  memcpy(packet + 20, options, 12);
  put16(packet + 10, 0);
  put16(packet + 10, (uint16_t)~slow_sum(0, packet, 32));
  host_send(&site, NULL, packet, octets);
  for (uint64_t i = 1; seen < octets - 32; i++) {
    CHECK(next_sealed(0, inner, &length, &tos, WAIT_MS) == i);
    size_t offset = (get16(inner + 6) & 0x1fff) * 8;
    CHECK(length <= SITE_MTU && get16(inner + 2) == length && slow_sum(0, inner, 32) == 0xffff && offset == seen);
    CHECK(((get16(inner + 6) & 0x2000) != 0) == (offset + length - 32 < octets - 32));
    CHECK(inner[20] == (offset ? 1 : 7) && memcmp(inner + 27, options + 7, 4) == 0);
    memcpy(whole + offset, inner + 32, length - 32);
    seen += length - 32;
  }
  CHECK(memcmp(whole, packet + 32, octets - 32) == 0);
  expect_silence();
  close_both();
}

int main(void) {
  RUN(tos_inside_ipv4);
  RUN(tos_inside_ipv6);
  RUN(tos_through_a_dual_stack_socket);
  RUN(super_packets_keep_their_marks);
  RUN(own_esp_is_not_sealed_again);
  RUN(what_cannot_be_sealed_never_leaves);
  RUN(an_sa_refuses_to_wrap);
  RUN(esn_goes_on_beyond_two_to_the_32);
  RUN(a_grant_may_be_lowered);
  RUN(a_fenced_sa_sends_only_before_the_fence);
  RUN(icmp_says_how_big_a_packet_may_be);
  RUN(icmp_answers_no_error_no_fragment_and_no_crowd);
  RUN(icmp_is_rationed);
  RUN(fragments_carry_options_only_where_they_belong);
  return 0;
}
