/* Splitting super-packets and clamping the MSS: rebuilt headers, checksums, and input that lies. */
#include "packets.h"
#include "segment.h"

static uint8_t super[70000], out[70000], joined[70000];

static struct virtio_net_hdr_v1 vnet_of(uint8_t gso, uint16_t size, const uint8_t *packet, uint8_t protocol) {
  return (struct virtio_net_hdr_v1){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                    .gso_type = gso,
                                    .gso_size = size,
                                    .csum_start = (uint16_t)l3_of(packet),
                                    .csum_offset = protocol == P_TCP ? 16 : 6};
}

static uint8_t gso_of(const struct recipe *r) {
  if (r->protocol == P_UDP) return VIRTIO_NET_HDR_GSO_UDP_L4;
  return r->ipv6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4;
}

static void check_tcp_segment(const struct recipe *r, uint32_t index, uint32_t count, size_t size) {
  const uint8_t *tcp = out + l3_of(out);
  CHECK(get32(tcp + 4) == r->sequence + index * (uint32_t)size);
  uint8_t expected = r->flags;
  if (index > 0) expected &= (uint8_t)~0x80;
  if (index + 1 < count) expected &= (uint8_t)~0x09;
  CHECK(tcp[13] == expected && get32(tcp + 8) == r->ack);
}

/* Splits one super-packet and puts the payloads together again. */
static void check_split(const struct recipe *r, uint16_t size, uint8_t extra_gso) {
  uint8_t protocol = r->protocol ? r->protocol : P_TCP;
  size_t length = build(super, r), header = length - r->payload, collected = 0;
  make_partial(super, length, protocol);
  uint8_t *exact = exact_copy(super, length);
  struct virtio_net_hdr_v1 vnet = vnet_of((uint8_t)(gso_of(r) | extra_gso), size, super, protocol);
  struct segmenter s;
  CHECK(segmenter_begin(&s, &vnet, exact, length) == SEGMENT_OK);
  uint32_t count = segmenter_count(&s);
  CHECK(count == (r->payload + size - 1) / size);
  for (uint32_t i = 0; i < count; i++) {
    size_t expected = segmenter_next_length(&s);
    CHECK(i + 1 == count || expected == header + size);
    CHECK(segmenter_next(&s, out) == expected && is_sound(out, expected, protocol));
    if (!r->ipv6) CHECK(get16(out + 4) == (uint16_t)(r->id + i));
    CHECK(memcmp(out + (r->ipv6 ? 6 : 6), super + 6, r->ipv6 ? 34 : 4) == 0); /* TTL, protocol, flags; addresses */
    if (protocol == P_TCP) check_tcp_segment(r, i, count, size);
    memcpy(joined + collected, out + header, expected - header);
    collected += expected - header;
  }
  CHECK(segmenter_next_length(&s) == 0 && segmenter_next(&s, out) == 0);
  CHECK(collected == r->payload && memcmp(joined, super + header, collected) == 0);
  free(exact);
}

static void super_packets_are_split_and_rebuilt(void) {
  static const uint16_t sizes[] = {1, 536, 1208, 1380, 1448, 8900};
  static const size_t payloads[] = {1, 2, 1380, 1381, 2760, 40000, 65000};
  for (int ipv6 = 0; ipv6 < 2; ipv6++)
    for (int udp = 0; udp < 2; udp++)
      for (size_t i = 0; i < 6; i++)
        for (size_t j = 0; j < 7; j++) {
          if (sizes[i] == 1 && payloads[j] > 2000) continue;
          struct recipe r = {.ipv6 = ipv6,
                             .protocol = udp ? P_UDP : P_TCP,
                             .flags = 0x19 | 0x80,
                             .id = 65530,
                             .sequence = UINT32_MAX - 3000,
                             .ack = 77,
                             .options = udp ? 0 : 12,
                             .payload = payloads[j]};
          check_split(&r, sizes[i], 0);
          if (!udp) check_split(&r, sizes[i], VIRTIO_NET_HDR_GSO_ECN);
        }
}

static void ipv4_options_ride_on_every_segment(void) {
  struct recipe r = {.flags = 0x10, .ip_options = 8, .payload = 5000};
  check_split(&r, 1000, 0);
}

static void a_segment_never_has_checksum_zero(void) {
  /* UDP: search a payload whose checksum would be 0 and see 0xffff (RFC 768). */
  struct recipe r = {.protocol = P_UDP, .payload = 40};
  size_t length = build(super, &r);
  put16(super + 28, 0);
  put16(super + 26, 0);
  uint32_t rest = slow_sum(slow_pseudo(super, P_UDP, length - 20), super + 20, length - 20);
  put16(super + 28, 0xffff - rest);
  struct virtio_net_hdr_v1 vnet = vnet_of(VIRTIO_NET_HDR_GSO_UDP_L4, 100, super, P_UDP);
  struct segmenter s;
  CHECK(segmenter_begin(&s, &vnet, super, length) == SEGMENT_OK && segmenter_next(&s, out) == length &&
        get16(out + 26) == 0xffff);
  vnet.gso_type = VIRTIO_NET_HDR_GSO_NONE;
  make_partial(super, length, P_UDP);
  CHECK(segmenter_begin(&s, &vnet, super, length) == SEGMENT_OK && segmenter_next(&s, out) == length &&
        get16(out + 26) == 0xffff);
}

/* ---- plain packets ---- */

static void a_partial_checksum_is_completed(void) {
  for (int ipv6 = 0; ipv6 < 2; ipv6++)
    for (int udp = 0; udp < 2; udp++)
      for (size_t payload = 0; payload < 200; payload++) {
        struct recipe r = {.ipv6 = ipv6, .protocol = udp ? P_UDP : P_TCP, .payload = payload, .seed = (uint8_t)payload};
        size_t length = build(super, &r);
        make_partial(super, length, r.protocol);
        struct virtio_net_hdr_v1 vnet = vnet_of(VIRTIO_NET_HDR_GSO_NONE, 0, super, r.protocol);
        struct segmenter s;
        CHECK(segmenter_begin(&s, &vnet, super, length) == SEGMENT_OK && segmenter_count(&s) == 1);
        CHECK(segmenter_next(&s, out) == length && is_sound(out, length, r.protocol));
      }
}

static void a_finished_packet_is_copied_as_it_is(void) {
  struct recipe r = {.payload = 100};
  size_t length = build(super, &r);
  super[36] ^= 0xff; /* even a wrong checksum is the sender's own */
  struct virtio_net_hdr_v1 vnet = {0};
  struct segmenter s;
  CHECK(segmenter_begin(&s, &vnet, super, length) == SEGMENT_OK && segmenter_next(&s, out) == length &&
        memcmp(out, super, length) == 0);
  memset(super + length, 0xaa, 20); /* octets behind the IP packet are left out */
  CHECK(segmenter_begin(&s, &vnet, super, length + 20) == SEGMENT_OK && segmenter_next(&s, out) == length);
}

static size_t build_with_extensions(uint8_t *packet, uint8_t first, size_t payload) {
  struct recipe r = {.ipv6 = true, .protocol = P_UDP, .payload = payload};
  size_t length = build(packet, &r);
  memmove(packet + 48, packet + 40, length - 40);
  memset(packet + 40, 0, 8);
  packet[40] = P_UDP;
  packet[6] = first;
  put16(packet + 4, length - 40 + 8);
  return length + 8;
}

static void ipv6_extension_headers_are_tolerated(void) {
  static const uint8_t kinds[] = {0, 43, 44, 60};
  for (size_t i = 0; i < 4; i++) {
    size_t length = build_with_extensions(super, kinds[i], 300);
    struct virtio_net_hdr_v1 vnet = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 48, .csum_offset = 6};
    uint8_t partial[40];
    memcpy(partial, super, 40);
    put16(super + 54, slow_pseudo(super, P_UDP, length - 48));
    struct segmenter s;
    CHECK(segmenter_begin(&s, &vnet, super, length) == SEGMENT_OK && segmenter_next(&s, out) == length);
    CHECK(slow_sum(slow_pseudo(out, P_UDP, length - 48), out + 48, length - 48) == 0xffff);
    /* As a super-packet: hop-by-hop and destination options ride along; routing and fragment headers do not. */
    vnet.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
    vnet.gso_size = 100;
    enum segment_result expected = kinds[i] == 43   ? SEGMENT_UNSUPPORTED
                                   : kinds[i] == 44 ? SEGMENT_MALFORMED
                                                    : SEGMENT_OK;
    CHECK(segmenter_begin(&s, &vnet, super, length) == expected);
    if (expected != SEGMENT_OK) CHECK(segmenter_next_length(&s) == 0 || segmenter_count(&s) == 0);
    if (expected == SEGMENT_OK)
      CHECK(segmenter_count(&s) == 3 && segmenter_next(&s, out) == 156 && get16(out + 4) == 116);
  }
}

/* ---- hostile ---- */

static enum segment_result begin(size_t length, uint8_t gso, uint16_t size, uint16_t start, uint16_t offset) {
  struct virtio_net_hdr_v1 vnet = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                   .gso_type = gso,
                                   .gso_size = size,
                                   .csum_start = start,
                                   .csum_offset = offset};
  struct segmenter s;
  return segmenter_begin(&s, &vnet, super, length);
}

static void lying_headers_are_refused(void) {
  struct recipe r = {.payload = 3000};
  size_t length = build(super, &r);
  CHECK(begin(length, VIRTIO_NET_HDR_GSO_TCPV4, 1000, 20, 16) == SEGMENT_OK);
  CHECK(begin(length, VIRTIO_NET_HDR_GSO_TCPV4, 0, 20, 16) == SEGMENT_MALFORMED);
  CHECK(begin(length, VIRTIO_NET_HDR_GSO_TCPV6, 1000, 20, 16) == SEGMENT_MALFORMED);
  CHECK(begin(length, VIRTIO_NET_HDR_GSO_UDP_L4, 1000, 20, 16) == SEGMENT_MALFORMED);
  CHECK(begin(length, VIRTIO_NET_HDR_GSO_UDP, 1000, 20, 16) == SEGMENT_UNSUPPORTED);
  CHECK(begin(length - 1, VIRTIO_NET_HDR_GSO_TCPV4, 1000, 20, 16) == SEGMENT_MALFORMED);
  CHECK(begin(0, VIRTIO_NET_HDR_GSO_NONE, 0, 0, 0) == SEGMENT_MALFORMED);
  CHECK(begin(length, VIRTIO_NET_HDR_GSO_NONE, 0, 20, (uint16_t)(length - 21)) == SEGMENT_MALFORMED);
  CHECK(begin(length, VIRTIO_NET_HDR_GSO_NONE, 0, 65535, 65535) == SEGMENT_MALFORMED);
  CHECK(begin(length, VIRTIO_NET_HDR_GSO_NONE, 0, 10, 0) == SEGMENT_MALFORMED);
  super[32] = 0x40; /* TCP header of 16 octets */
  CHECK(begin(length, VIRTIO_NET_HDR_GSO_TCPV4, 1000, 20, 16) == SEGMENT_MALFORMED);
  super[32] = 0x50;
  put16(super + 6, 0x2000); /* more fragments */
  CHECK(begin(length, VIRTIO_NET_HDR_GSO_TCPV4, 1000, 20, 16) == SEGMENT_MALFORMED);
  super[0] = 0x44; /* IPv4 header of 16 octets */
  CHECK(begin(length, VIRTIO_NET_HDR_GSO_NONE, 0, 20, 16) == SEGMENT_MALFORMED);
  super[0] = 0x55;
  CHECK(begin(length, VIRTIO_NET_HDR_GSO_NONE, 0, 20, 16) == SEGMENT_MALFORMED);
}

static void random_input_stays_in_bounds(void) {
  static const uint8_t kinds[] = {0, 1, 3, 4, 5, 0x81, 0x84, 0x7f};
  for (int i = 0; i < 60000; i++) {
    uint8_t packet[256];
    struct recipe r = {.ipv6 = random_below(2),
                       .protocol = random_below(2) ? P_TCP : P_UDP,
                       .options = 4 * random_below(6),
                       .payload = random_below(80)};
    size_t length = build(packet, &r);
    for (size_t damage = random_below(5); damage > 0; damage--)
      packet[random_below(random_below(2) ? 60 : length) % length] = (uint8_t)random64();
    if (random_below(4) == 0) length = random_below(length + 1);
    uint8_t *exact = exact_copy(packet, length);
    struct virtio_net_hdr_v1 vnet = {.flags = (uint8_t)random_below(2),
                                     .gso_type = kinds[random_below(8)],
                                     .gso_size = (uint16_t)random_below(60),
                                     .csum_start = (uint16_t)random_below(80),
                                     .csum_offset = (uint16_t)random_below(90)};
    struct segmenter s;
    if (segmenter_begin(&s, &vnet, exact, length) == SEGMENT_OK) {
      size_t next;
      while ((next = segmenter_next_length(&s)) > 0) {
        uint8_t *room = malloc(next);
        CHECK(segmenter_next(&s, room) == next);
        free(room);
      }
    }
    segment_clamp_mss(exact, length, 1200, 1180, random_below(2));
    free(exact);
  }
}

/* ---- MSS ---- */

static size_t build_syn(uint8_t *packet, bool ipv6, uint8_t flags, uint16_t mss, size_t nops) {
  struct recipe r = {.ipv6 = ipv6, .flags = flags, .options = 12, .sequence = 5};
  size_t length = build(packet, &r);
  uint8_t *options = packet + l3_of(packet) + 20;
  memset(options, 1, 12);
  options[nops] = 2;
  options[nops + 1] = 4;
  put16(options + nops + 2, mss);
  put16(options - 4, 0);
  put16(options - 4, (uint16_t)~slow_sum(slow_pseudo(packet, P_TCP, length - l3_of(packet)), packet + l3_of(packet),
                                         length - l3_of(packet)));
  return length;
}

static void an_mss_is_clamped_with_its_checksum(void) {
  for (int ipv6 = 0; ipv6 < 2; ipv6++)
    for (size_t nops = 0; nops <= 8; nops++)
      for (uint16_t mss = 1000; mss < 9000; mss += 613) {
        uint8_t packet[128];
        size_t length = build_syn(packet, ipv6, nops % 2 ? 0x02 : 0x12, mss, nops);
        segment_clamp_mss(packet, length, 1398, 1378, false);
        uint16_t clamp = ipv6 ? 1378 : 1398;
        CHECK(get16(packet + l3_of(packet) + 22 + nops) == (mss < clamp ? mss : clamp) &&
              is_sound(packet, length, P_TCP));
      }
}

static void a_partial_checksum_is_left_alone(void) {
  uint8_t packet[128];
  size_t length = build_syn(packet, false, 0x02, 1460, 0);
  make_partial(packet, length, P_TCP);
  uint16_t before = get16(packet + 36);
  segment_clamp_mss(packet, length, 1398, 1378, true);
  CHECK(get16(packet + 42) == 1398 && get16(packet + 36) == before);
}

static void nothing_but_a_whole_syn_is_clamped(void) {
  uint8_t packet[128], before[128];
  for (int i = 0; i < 6; i++) {
    size_t length = build_syn(packet, false, i == 0 ? 0x10 : 0x02, 1460, 0);
    uint16_t clamp = 1398;
    if (i == 1) put16(packet + 6, 0x2000);
    if (i == 2) packet[9] = P_UDP;
    if (i == 3) clamp = 0;
    if (i == 4) packet[40] = 0; /* end of options before the MSS */
    if (i == 5) packet[41] = 3; /* MSS option of a wrong length */
    memcpy(before, packet, length);
    segment_clamp_mss(packet, length, clamp, 1378, false);
    CHECK(memcmp(before, packet, length) == 0);
  }
}

static void options_and_extensions_that_run_out_are_left_alone(void) {
  uint8_t packet[256];
  struct virtio_net_hdr_v1 vnet = {0};
  struct segmenter s;
  /* An MSS option whose value lies behind the TCP header, at the very end of the buffer. */
  size_t length = build_syn(packet, false, 0x02, 1460, 0);
  memset(packet + 40, 1, 12);
  packet[50] = 2;
  packet[51] = 4;
  uint8_t *exact = exact_copy(packet, length);
  segment_clamp_mss(exact, length, 1398, 1378, false);
  CHECK(memcmp(exact, packet, length) == 0);
  free(exact);
  /* An extension header that claims more than the packet has. */
  for (int kind = 0; kind < 2; kind++) {
    length = build_with_extensions(packet, 60, 40);
    packet[40] = P_TCP;
    packet[41] = kind ? 255 : 20;
    exact = exact_copy(packet, length);
    segment_clamp_mss(exact, length, 1398, 1378, false);
    CHECK(segmenter_begin(&s, &vnet, exact, length) == SEGMENT_MALFORMED && segmenter_next_length(&s) == 0);
    free(exact);
  }
}

int main(void) {
  RUN(super_packets_are_split_and_rebuilt);
  RUN(ipv4_options_ride_on_every_segment);
  RUN(a_segment_never_has_checksum_zero);
  RUN(a_partial_checksum_is_completed);
  RUN(a_finished_packet_is_copied_as_it_is);
  RUN(ipv6_extension_headers_are_tolerated);
  RUN(lying_headers_are_refused);
  RUN(random_input_stays_in_bounds);
  RUN(an_mss_is_clamped_with_its_checksum);
  RUN(a_partial_checksum_is_left_alone);
  RUN(nothing_but_a_whole_syn_is_clamped);
  RUN(options_and_extensions_that_run_out_are_left_alone);
  return 0;
}
