/* The segmenter and the MSS clamp: hostile packets under a virtio header that need not fit them. */
#include "fuzz.h"
#include "packets.h"
#include "segment.h"

/* What a sound segment of this kind has to be. */
static void check_segment(const struct segmenter *s, const uint8_t *out, size_t length) {
  struct {
    bool ipv6;
    size_t l3;
  } header = {out[0] >> 4 == 6, s->l3_length};
  size_t claimed = header.ipv6 ? 40u + get16(out + 4) : get16(out + 2);
  CHECK(claimed == length);
  if (s->header_length == 0) return;
  uint8_t protocol = s->l4_protocol;
  if (!header.ipv6) CHECK(slow_sum(0, out, header.l3) == 0xffff);
  CHECK(slow_sum(slow_pseudo(out, protocol, length - header.l3), out + header.l3, length - header.l3) == 0xffff);
}

static void split(const struct virtio_net_hdr_v1 *vnet, const uint8_t *packet, size_t length) {
  struct segmenter s;
  if (segmenter_begin(&s, vnet, packet, length) != SEGMENT_OK) {
    CHECK(segmenter_count(&s) == 0 && segmenter_next_length(&s) == 0);
    return;
  }
  size_t payload = 0, next;
  uint32_t count = 0, promised = segmenter_count(&s);
  CHECK(promised >= 1 && s.length <= length);
  while ((next = segmenter_next_length(&s)) != 0) {
    uint8_t *out = malloc(next); /* exactly: the caller's room is no more */
    CHECK(out && segmenter_next(&s, out) == next);
    check_segment(&s, out, next);
    if (s.header_length) {
      CHECK(memcmp(out + s.header_length, packet + s.header_length + payload, next - s.header_length) == 0);
      payload += next - s.header_length;
    }
    free(out);
    count++;
  }
  CHECK(count == promised && (s.header_length == 0 || payload == s.length - s.header_length));
}

/* A sound packet stays sound. */
static void clamp(const uint8_t *packet, size_t length, uint16_t mss) {
  uint8_t *copy = exact_copy(packet, length);
  bool sound = length >= 60 && (copy[0] >> 4 == 4 || copy[0] >> 4 == 6) && l3_of(copy) + 20 <= length &&
               (copy[0] >> 4 == 4 ? copy[9] : copy[6]) == P_TCP && is_sound(copy, length, P_TCP);
  segment_clamp_mss(copy, length, mss, mss, false);
  if (sound) CHECK(is_sound(copy, length, P_TCP));
  size_t changed = 0;
  for (size_t i = 0; i < length; i++)
    changed += copy[i] != packet[i];
  CHECK(changed <= 4); /* the option's value and the checksum */
  free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const uint8_t kinds[] = {VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
                                  VIRTIO_NET_HDR_GSO_UDP_L4};
  struct fuzz_reader in = {data, size};
  struct virtio_net_hdr_v1 vnet = {.flags = fuzz_u8(&in)};
  uint8_t kind = fuzz_u8(&in);
  vnet.gso_type = kind & 0x40 ? kind : kinds[kind % 4];
  vnet.gso_size = fuzz_u16(&in);
  vnet.csum_start = fuzz_u16(&in);
  vnet.csum_offset = fuzz_u16(&in);
  uint8_t *packet = exact_copy(in.data, in.left);
  split(&vnet, packet, in.left);
  clamp(packet, in.left, vnet.gso_size);
  free(packet);
  return 0;
}

static size_t fuzz_seed(size_t index, uint8_t *out) {
  if (index >= 32) return 0;
  struct recipe recipe = {.ipv6 = index & 1,
                          .protocol = index & 2 ? P_UDP : P_TCP,
                          .payload = index & 4 ? 3000 : 0,
                          .flags = index & 4 ? 0x18 : 0x02,
                          .options = index & 8 ? 8 : 0};
  uint8_t kind = index & 16 ? 0 : index & 2 ? 3 : index & 1 ? 2 : 1;
  size_t length = build(out + 8, &recipe), l3 = l3_of(out + 8);
  if (recipe.options) put32(out + 8 + l3 + 20, 0x020405b4);
  out[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
  out[1] = kind;
  put16(out + 2, 500);
  put16(out + 4, l3);
  put16(out + 6, recipe.protocol == P_UDP ? 6 : 16);
  return 8 + length;
}
