/* Merging: what joins, what never does, and that splitting a merged packet gives the originals back. */
#include "packets.h"
#include "segment.h"

enum { PACKETS = 80, ROOM = 2048 };
static uint8_t buffers[PACKETS][ROOM], originals[PACKETS][ROOM], flat[70000], out[70000];
static size_t lengths[PACKETS];

static void prepare(size_t i, const struct recipe *r) {
  lengths[i] = build(buffers[i], r);
  memcpy(originals[i], buffers[i], lengths[i]);
}

static bool add(struct coalescer *c, size_t i) {
  return coalescer_add(c, buffers[i], lengths[i], true);
}

/* What writev would write, without the virtio header. */
static size_t flatten(const struct coalescer *c) {
  size_t length = 0;
  CHECK(c->iov[0].iov_base == &c->vnet && c->iov[0].iov_len == sizeof c->vnet);
  for (int i = 1; i < c->iov_count; i++) {
    memcpy(flat + length, c->iov[i].iov_base, c->iov[i].iov_len);
    length += c->iov[i].iov_len;
  }
  CHECK(length == c->total);
  return length;
}

static void stream(struct recipe *r, size_t i, size_t count) {
  r->sequence += (uint32_t)r->payload * (i > 0);
  r->id++;
  r->seed = (uint8_t)(i * 17);
  if (i + 1 == count) r->payload -= 5;
  prepare(i, r);
}

static void check_merge(struct recipe r, size_t count, size_t taken) {
  struct coalescer c;
  uint8_t protocol = r.protocol ? r.protocol : P_TCP;
  size_t size = r.payload;
  coalescer_reset(&c);
  for (size_t i = 0; i < count; i++)
    stream(&r, i, count);
  for (size_t i = 0; i < taken; i++)
    CHECK(add(&c, i));
  if (taken < count) CHECK(!add(&c, taken));
  coalescer_finish(&c);
  size_t length = flatten(&c);
  size_t l3 = l3_of(flat);
  CHECK(c.vnet.flags == VIRTIO_NET_HDR_F_NEEDS_CSUM && c.vnet.gso_size == size && c.vnet.csum_start == l3);
  CHECK(c.vnet.gso_type == (protocol == P_UDP ? VIRTIO_NET_HDR_GSO_UDP_L4
                            : r.ipv6          ? VIRTIO_NET_HDR_GSO_TCPV6
                                              : VIRTIO_NET_HDR_GSO_TCPV4));
  CHECK(c.vnet.hdr_len == l3 + (protocol == P_UDP ? 8 : 20 + r.options));
  CHECK(get16(flat + l3 + c.vnet.csum_offset) == slow_pseudo(flat, protocol, length - l3));
  struct segmenter s;
  CHECK(segmenter_begin(&s, &c.vnet, flat, length) == SEGMENT_OK && segmenter_count(&s) == taken);
  for (size_t i = 0; i < taken; i++) {
    CHECK(segmenter_next_length(&s) == lengths[i] && segmenter_next(&s, out) == lengths[i]);
    CHECK(memcmp(out, originals[i], lengths[i]) == 0);
  }
}

static void a_stream_becomes_one_packet_and_splits_back(void) {
  for (int ipv6 = 0; ipv6 < 2; ipv6++)
    for (int udp = 0; udp < 2; udp++) {
      struct recipe r = {.ipv6 = ipv6,
                         .protocol = udp ? P_UDP : P_TCP,
                         .sequence = UINT32_MAX - 5000,
                         .id = 65530,
                         .options = udp ? 0 : 12,
                         .payload = 1000};
      check_merge(r, 2, 2);
      check_merge(r, 30, 30);
      r.payload = 100;
      check_merge(r, 70, COALESCE_SEGMENTS_MAX);
      r.payload = 1400;
      r.tos = 2;
      check_merge(r, 60, (65535 - (ipv6 ? 40 : 20) - (udp ? 8 : 32)) / 1400);
    }
}

static void a_single_packet_goes_untouched(void) {
  struct recipe r = {.payload = 500};
  struct coalescer c;
  prepare(0, &r);
  buffers[0][36] ^= 1; /* bad checksum: the receiver's business */
  coalescer_reset(&c);
  CHECK(add(&c, 0));
  coalescer_finish(&c);
  CHECK(flatten(&c) == lengths[0] && memcmp(flat, buffers[0], lengths[0]) == 0);
  CHECK(c.vnet.flags == 0 && c.vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE && c.iov_count == 2);
}

/* Two packets that would join but for one difference. */
static bool joins(const struct recipe *first, const struct recipe *second, size_t corrupt, bool merge_udp) {
  struct coalescer c;
  prepare(0, first);
  prepare(1, second);
  if (corrupt) buffers[1][corrupt] ^= 0x10;
  coalescer_reset(&c);
  CHECK(coalescer_add(&c, buffers[0], lengths[0], merge_udp));
  bool joined = coalescer_add(&c, buffers[1], lengths[1], merge_udp);
  if (!joined) {
    coalescer_finish(&c);
    CHECK(c.vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE && flatten(&c) == lengths[0] &&
          memcmp(flat, originals[0], lengths[0]) == 0);
    coalescer_reset(&c);
    CHECK(coalescer_add(&c, buffers[1], lengths[1], merge_udp));
  }
  return joined;
}

static void every_difference_keeps_packets_apart(void) {
  for (int ipv6 = 0; ipv6 < 2; ipv6++) {
    struct recipe first = {.ipv6 = ipv6, .sequence = 100, .ack = 9, .options = 12, .payload = 600}, next = first;
    next.sequence = 700;
    CHECK(joins(&first, &next, 0, true));
    CHECK(joins(&first, &next, 0, false));
#define APART(field, value)                                                                                            \
  do {                                                                                                                 \
    struct recipe other = next;                                                                                        \
    other.field = value;                                                                                               \
    CHECK(!joins(&first, &other, 0, true));                                                                            \
  } while (0)
    APART(sequence, 701);
    APART(sequence, 100);
    APART(ack, 10);
    APART(window, 513);
    APART(options, 8);
    APART(option, 9);
    APART(payload, 601);
    APART(payload, 0);
    APART(tos, 4);
    APART(ttl, 63);
    APART(source_port, 4001);
    APART(flags, 0x11);
    APART(flags, 0x12);
    APART(flags, 0x14);
    APART(flags, 0x30);
    APART(flags, 0x50);
    APART(flags, 0x90);
    APART(protocol, P_UDP);
    APART(ipv6, !ipv6);
    if (!ipv6) APART(fragment, 0x2000);
    if (!ipv6) APART(fragment, 0x4001);
    if (!ipv6) APART(ip_options, 4);
#undef APART
  }
}

/* Repairs the checksums after a test wrote a lie into the headers. `l4_octets` is what the sender summed over. */
static void resum(uint8_t *packet, uint8_t protocol, size_t l4_octets) {
  size_t l3 = l3_of(packet), field = l3 + (protocol == P_TCP ? 16 : 6);
  put16(packet + field, 0);
  put16(packet + field, (uint16_t)~slow_sum(slow_pseudo(packet, protocol, l4_octets), packet + l3, l4_octets));
  put16(packet + 10, 0);
  put16(packet + 10, (uint16_t)~slow_sum(0, packet, l3));
}

static void lengths_that_lie_under_good_checksums_stay_apart(void) {
  for (int kind = 0; kind < 3; kind++) {
    struct recipe r = {
        .protocol = kind == 0 ? P_UDP : P_TCP, .sequence = 1, .payload = 40, .fragment = kind == 2 ? 0x2000 : 0};
    struct coalescer c;
    for (size_t i = 0; i < 2; i++, r.sequence += 40) {
      prepare(i, &r);
      if (kind == 0) put16(buffers[i] + 24, 20);            /* UDP length shorter than the packet */
      if (kind == 1) put16(buffers[i] + 2, lengths[i] - 4); /* IP length shorter than what was handed over */
      resum(buffers[i], kind == 0 ? P_UDP : P_TCP, lengths[i] - 20);
    }
    coalescer_reset(&c);
    CHECK(add(&c, 0) && !add(&c, 1));
  }
}

static void nothing_joins_after_an_end(void) {
  struct recipe first = {.sequence = 100, .payload = 600}, push = first, small = first;
  struct recipe next = {.sequence = 700, .payload = 600};
  push.flags = 0x18;
  CHECK(!joins(&push, &next, 0, true));
  /* PSH and a short segment may join as the last. */
  struct coalescer c;
  for (int kind = 0; kind < 2; kind++) {
    struct recipe last = next, after = next;
    if (kind)
      last.payload = 599;
    else
      last.flags = 0x18;
    after.sequence = 700 + (uint32_t)last.payload;
    prepare(0, &small);
    prepare(1, &last);
    prepare(2, &after);
    coalescer_reset(&c);
    CHECK(add(&c, 0) && add(&c, 1) && !add(&c, 2));
    coalescer_finish(&c);
    flatten(&c);
    CHECK((flat[33] & 0x08) == (kind ? 0 : 0x08));
  }
}

static void a_packet_that_does_not_verify_never_joins(void) {
  for (int udp = 0; udp < 2; udp++)
    for (size_t at = 22; at < 60; at++) {
      struct recipe first = {.protocol = udp ? P_UDP : P_TCP, .sequence = 1, .payload = 40}, next = first;
      next.sequence = 41;
      CHECK(!joins(&first, &next, at, true));
    }
  /* An IPv4 header checksum counts too: it would be repaired otherwise. */
  struct recipe first = {.sequence = 1, .payload = 40}, next = first;
  next.sequence = 41;
  CHECK(!joins(&first, &next, 10, true));
  CHECK(!joins(&first, &next, 4, true)); /* the id, which merging ignores */
}

static void a_head_that_does_not_verify_takes_nobody(void) {
  struct recipe first = {.sequence = 1, .payload = 40}, next = first;
  struct coalescer c;
  next.sequence = 41;
  prepare(0, &first);
  prepare(1, &next);
  buffers[0][50] ^= 1;
  coalescer_reset(&c);
  CHECK(add(&c, 0) && !add(&c, 1) && !add(&c, 1));
  coalescer_finish(&c);
  CHECK(c.vnet.flags == 0 && flatten(&c) == lengths[0] && memcmp(flat, buffers[0], lengths[0]) == 0);
}

static void udp_without_checksum_or_offload_goes_alone(void) {
  struct recipe first = {.protocol = P_UDP, .payload = 40};
  CHECK(joins(&first, &first, 0, true));
  CHECK(!joins(&first, &first, 0, false));
  struct coalescer c;
  for (size_t i = 0; i < 2; i++) {
    prepare(i, &first);
    put16(buffers[i] + 26, 0);
  }
  coalescer_reset(&c);
  CHECK(add(&c, 0) && !add(&c, 1));
}

static void random_packets_stay_in_bounds(void) {
  for (int i = 0; i < 20000; i++) {
    struct coalescer c;
    uint8_t *kept[12];
    coalescer_reset(&c);
    struct recipe r = {.ipv6 = random_below(2),
                       .protocol = random_below(2) ? P_TCP : P_UDP,
                       .sequence = 1,
                       .payload = 1 + random_below(60)};
    for (size_t n = 0; n < 12; n++) {
      uint8_t packet[256];
      size_t length = build(packet, &r);
      r.sequence += (uint32_t)r.payload;
      if (random_below(3) == 0)
        for (size_t damage = random_below(4); damage > 0; damage--)
          packet[random_below(length)] = (uint8_t)random64();
      if (random_below(10) == 0) length = random_below(length + 1);
      kept[n] = exact_copy(packet, length);
      if (!coalescer_add(&c, kept[n], length, random_below(8) > 0)) {
        coalescer_finish(&c);
        flatten(&c);
        coalescer_reset(&c);
        CHECK(coalescer_add(&c, kept[n], length, true));
      }
    }
    coalescer_finish(&c);
    flatten(&c);
    for (size_t n = 0; n < 12; n++)
      free(kept[n]);
  }
}

int main(void) {
  RUN(a_stream_becomes_one_packet_and_splits_back);
  RUN(a_single_packet_goes_untouched);
  RUN(every_difference_keeps_packets_apart);
  RUN(lengths_that_lie_under_good_checksums_stay_apart);
  RUN(nothing_joins_after_an_end);
  RUN(a_packet_that_does_not_verify_never_joins);
  RUN(a_head_that_does_not_verify_takes_nobody);
  RUN(udp_without_checksum_or_offload_goes_alone);
  RUN(random_packets_stay_in_bounds);
  return 0;
}
