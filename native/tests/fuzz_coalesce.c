/* The coalescer: what it merges splits again into what was put in, and nothing else is ever touched. */
#include "fuzz.h"
#include "packets.h"
#include "segment.h"

enum { HELD_MAX = COALESCE_SEGMENTS_MAX };

static struct held {
  uint8_t *packet, *original;
  size_t length;
} held[HELD_MAX];
static size_t held_count;

/* But the IPv4 id, which the kernel counts up by itself. */
static bool same_but_id(const uint8_t *a, const uint8_t *b, size_t length) {
  if (a[0] >> 4 != 4) return memcmp(a, b, length) == 0;
  return memcmp(a, b, 4) == 0 && memcmp(a + 6, b + 6, 4) == 0 && memcmp(a + 12, b + 12, length - 12) == 0;
}

static void check_split(const struct coalescer *c, const uint8_t *flat, size_t length) {
  struct segmenter s;
  CHECK(c->vnet.flags == VIRTIO_NET_HDR_F_NEEDS_CSUM);
  CHECK(segmenter_begin(&s, &c->vnet, flat, length) == SEGMENT_OK && segmenter_count(&s) == held_count);
  for (size_t i = 0; i < held_count; i++) {
    uint8_t out[FUZZ_INPUT_MAX];
    CHECK(segmenter_next_length(&s) == held[i].length && segmenter_next(&s, out) == held[i].length);
    CHECK(same_but_id(out, held[i].original, held[i].length));
    CHECK(is_sound(held[i].original, held[i].length, c->l4_protocol));
  }
}

static void take_out(struct coalescer *c) {
  static uint8_t flat[70000];
  size_t length = 0;
  if (held_count == 0) return;
  CHECK(c->segments == held_count && c->iov_count == (int)held_count + 1);
  coalescer_finish(c);
  for (int i = 1; i < c->iov_count; i++) {
    CHECK(length + c->iov[i].iov_len <= sizeof flat);
    memcpy(flat + length, c->iov[i].iov_base, c->iov[i].iov_len);
    length += c->iov[i].iov_len;
  }
  CHECK(length == c->total && length <= 65535 + (size_t)(held_count == 1) * FUZZ_INPUT_MAX);
  if (held_count > 1)
    check_split(c, flat, length);
  else
    CHECK(c->vnet.flags == 0 && c->vnet.gso_type == 0 && memcmp(flat, held[0].original, length) == 0);
  for (; held_count > 0; held_count--) {
    free(held[held_count - 1].packet);
    free(held[held_count - 1].original);
  }
  coalescer_reset(c);
}

static void put_in(struct coalescer *c, const uint8_t *data, size_t length, bool merge_udp) {
  struct held one = {exact_copy(data, length), exact_copy(data, length), length};
  if (!coalescer_add(c, one.packet, length, merge_udp)) {
    CHECK(held_count > 0);
    take_out(c);
    CHECK(coalescer_add(c, one.packet, length, merge_udp));
  }
  held[held_count++] = one;
}

/* Each record: how it is made, two octets of length or payload, the packet. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz_reader in = {data, size};
  struct coalescer c;
  uint8_t options = fuzz_u8(&in), packet[FUZZ_INPUT_MAX];
  uint32_t sequence = 1000;
  coalescer_reset(&c);
  while (in.left > 0) {
    uint8_t how = fuzz_u8(&in);
    size_t length = fuzz_u16(&in) % 1500;
    if (how < 64) {
      if (length > in.left) length = in.left;
      memcpy(packet, in.data, length);
      in.data += length;
      in.left -= length;
    } else { /* the next segment of a stream, perhaps with a fault */
      struct recipe recipe = {.ipv6 = options & 1, .protocol = options & 2 ? P_UDP : P_TCP, .payload = length};
      recipe.sequence = sequence;
      recipe.flags = how & 1 && how & 2 ? 0x18 : 0x10;
      sequence += (uint32_t)length;
      length = build(packet, &recipe);
      if (how > 240) packet[fuzz_u8(&in) % length] ^= fuzz_u8(&in);
    }
    if (length > 0) put_in(&c, packet, length, options & 4);
  }
  take_out(&c);
  return 0;
}

static size_t fuzz_seed(size_t index, uint8_t *out) {
  size_t length = 0;
  if (index >= 16) return 0;
  out[length++] = (uint8_t)(index | 4);
  for (size_t i = 0; i < 100; i++) {
    if (index & 8 && i % 5 == 0) {
      struct recipe recipe = {.ipv6 = index & 1, .protocol = index & 2 ? P_UDP : P_TCP, .payload = 10};
      size_t octets = build(out + length + 3, &recipe);
      out[length] = 0;
      put16(out + length + 1, octets);
      length += 3 + octets;
    } else {
      out[length] = 64;
      put16(out + length + 1, 1000);
      length += 3;
    }
  }
  return length;
}
