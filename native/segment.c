/* Splitting super-packets (virtio 1.2 5.1.6.2) and clamping the MSS of TCP SYNs, in memory.
 *
 * begin() proves once that every offset lies inside the packet; next() relies on it. The packet comes from the inner
 * network by way of the kernel: its headers are not trusted.
 *
 *     virtio header | IP | TCP or UDP | payload of gso_size octets | payload | ... | rest
 *                    header_length      one segment each, with a rebuilt copy of the headers
 */
#include "segment.h"

#include "inner.h"

enum { GSO_KIND = 0x7f };

/* ---- segmenter ---- */

/* A packet that stays whole; with NEEDS_CSUM its checksum field holds only the pseudo-header sum so far. */
static enum segment_result begin_plain(struct segmenter *s, const struct virtio_net_hdr_v1 *vnet,
                                       const struct inner *inner) {
  s->complete_checksum = (vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0;
  if (s->complete_checksum) {
    s->checksum_start = vnet->csum_start;
    s->checksum_field = s->checksum_start + vnet->csum_offset;
    size_t fixed = inner->ipv6 ? IPV6_HEADER : inner->l3_length;
    if (s->checksum_start < fixed || s->checksum_field + 2 > s->length) return SEGMENT_MALFORMED;
  }
  s->count = 1;
  return SEGMENT_OK;
}

static bool kind_fits(uint8_t kind, const struct inner *inner) {
  switch (kind) {
  case VIRTIO_NET_HDR_GSO_TCPV4:
    return !inner->ipv6 && inner->protocol == PROTOCOL_TCP;
  case VIRTIO_NET_HDR_GSO_TCPV6:
    return inner->ipv6 && inner->protocol == PROTOCOL_TCP;
  default:
    return inner->protocol == PROTOCOL_UDP;
  }
}

static enum segment_result begin_super(struct segmenter *s, const struct inner *inner, uint8_t kind) {
  if (s->gso_size == 0 || inner->fragment || !kind_fits(kind, inner)) return SEGMENT_MALFORMED;
  if (inner->routing) return SEGMENT_UNSUPPORTED;
  size_t left = s->length - inner->l3_length;
  size_t l4_length = UDP_HEADER;
  if (inner->protocol == PROTOCOL_TCP) {
    if (left < TCP_MINIMUM) return SEGMENT_MALFORMED;
    l4_length = (size_t)(s->packet[inner->l3_length + TCP_DATA_OFFSET] >> 4) * 4;
    if (l4_length < TCP_MINIMUM) return SEGMENT_MALFORMED;
    s->first_sequence = load32(s->packet + inner->l3_length + TCP_SEQUENCE);
  }
  if (left < l4_length) return SEGMENT_MALFORMED;
  if (!inner->ipv6) s->first_ip_id = load16(s->packet + IPV4_ID);
  s->l4_length = (uint16_t)l4_length;
  s->header_length = (uint16_t)(inner->l3_length + l4_length);
  s->payload_offset = s->header_length;
  size_t payload = s->length - s->header_length;
  s->count = payload ? (uint32_t)((payload + s->gso_size - 1) / s->gso_size) : 1;
  s->complete_checksum = true;
  return SEGMENT_OK;
}

enum segment_result segmenter_begin_parsed(struct segmenter *s, const struct virtio_net_hdr_v1 *vnet,
                                           const uint8_t *packet, const struct inner *inner) {
  *s = (struct segmenter){.packet = packet,
                          .length = inner->length,
                          /* The ECN bit only says that CWR is for the first segment. */
                          .gso_type = vnet->gso_type & GSO_KIND,
                          .gso_size = vnet->gso_size,
                          .l3_length = inner->l3_length,
                          .ipv6 = inner->ipv6,
                          .l4_protocol = inner->protocol};
  if (!inner->whole) return SEGMENT_MALFORMED;
  switch (s->gso_type) {
  case VIRTIO_NET_HDR_GSO_NONE:
    return begin_plain(s, vnet, inner);
  case VIRTIO_NET_HDR_GSO_TCPV4:
  case VIRTIO_NET_HDR_GSO_TCPV6:
  case VIRTIO_NET_HDR_GSO_UDP_L4:
    return begin_super(s, inner, s->gso_type);
  default:
    return SEGMENT_UNSUPPORTED;
  }
}

enum segment_result segmenter_begin(struct segmenter *s, const struct virtio_net_hdr_v1 *vnet, const uint8_t *packet,
                                    size_t length) {
  struct inner inner;
  *s = (struct segmenter){0}; /* count 0: next() gives nothing after a failure */
  return inner_parse(&inner, packet, length) ? segmenter_begin_parsed(s, vnet, packet, &inner) : SEGMENT_MALFORMED;
}

uint32_t segmenter_count(const struct segmenter *s) {
  return s->count;
}

size_t segmenter_next_length(const struct segmenter *s) {
  if (s->index >= s->count) return 0;
  if (s->header_length == 0) return s->length;
  size_t left = s->length - s->payload_offset;
  return s->header_length + (left < s->gso_size ? left : s->gso_size);
}

static size_t next_plain(struct segmenter *s, uint8_t *out) {
  s->index++;
  if (out != s->packet) memmove(out, s->packet, s->length);
  if (s->complete_checksum) {
    uint16_t folded = checksum_fold(checksum_add(0, out + s->checksum_start, s->length - s->checksum_start));
    /* RFC 768: zero would say "no checksum"; in one's complement 0xffff is the same number, good for TCP too. */
    store_checksum(out + s->checksum_field, folded ? folded : 0xffff);
  }
  return s->length;
}

static void rebuild_l3(const struct segmenter *s, uint8_t *out, size_t length) {
  if (s->ipv6) {
    store16(out + IPV6_PAYLOAD_LENGTH, (uint32_t)(length - IPV6_HEADER));
    return;
  }
  store16(out + IPV4_TOTAL_LENGTH, (uint32_t)length);
  store16(out + IPV4_ID, s->first_ip_id + s->index);
  store16(out + IPV4_CHECKSUM, 0);
  store_checksum(out + IPV4_CHECKSUM, checksum_fold(checksum_add(0, out, s->l3_length)));
}

static void rebuild_l4(const struct segmenter *s, uint8_t *l4, size_t l4_octets) {
  if (s->l4_protocol == PROTOCOL_UDP) {
    store16(l4 + UDP_LENGTH, (uint32_t)l4_octets);
  } else {
    store32(l4 + TCP_SEQUENCE, s->first_sequence + s->index * s->gso_size);
    if (s->index > 0) l4[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
    if (s->index + 1 < s->count) l4[TCP_FLAGS] &= (uint8_t)~(TCP_FIN | TCP_PSH);
  }
  store16(l4 + l4_checksum_offset(s->l4_protocol), 0);
}

size_t segmenter_next(struct segmenter *s, uint8_t *out) {
  size_t length = segmenter_next_length(s);
  if (length == 0) return 0;
  if (s->header_length == 0) return next_plain(s, out);
  size_t payload = length - s->header_length, l4_octets = length - s->l3_length;
  uint8_t *l4 = out + s->l3_length;
  memcpy(out, s->packet, s->header_length);
  rebuild_l3(s, out, length);
  rebuild_l4(s, l4, l4_octets);
  uint32_t sum = pseudo_header_sum(out, s->ipv6, s->l4_protocol, l4_octets);
  sum = checksum_add(sum, l4, s->l4_length);
  sum = checksum_copy(sum, out + s->header_length, s->packet + s->payload_offset, payload);
  uint16_t folded = checksum_fold(sum);
  store_checksum(l4 + l4_checksum_offset(s->l4_protocol), folded ? folded : 0xffff);
  s->payload_offset += payload;
  s->index++;
  return length;
}

/* ---- MSS ---- */

enum { TCP_OPTION_END = 0, TCP_OPTION_NOP = 1, TCP_OPTION_MSS = 2, TCP_OPTION_MSS_LENGTH = 4 };

/* RFC 9293 3.2: the offset of the MSS option's value from the TCP header, 0 when there is none. */
static size_t find_mss(const uint8_t *tcp, size_t tcp_length) {
  size_t offset = TCP_MINIMUM;
  while (offset < tcp_length && tcp[offset] != TCP_OPTION_END) {
    if (tcp[offset] == TCP_OPTION_NOP) {
      offset++;
      continue;
    }
    if (tcp_length - offset < 2 || tcp[offset + 1] < 2 || tcp[offset + 1] > tcp_length - offset) return 0;
    if (tcp[offset] == TCP_OPTION_MSS) return tcp[offset + 1] == TCP_OPTION_MSS_LENGTH ? offset + 2 : 0;
    offset += tcp[offset + 1];
  }
  return 0;
}

/* At an odd offset the two octets belong to different words, which one's complement arithmetic takes swapped. */
static void update_checksum(uint8_t *field, uint16_t before, uint16_t after, bool odd) {
  if (odd) {
    before = (uint16_t)(before << 8 | before >> 8);
    after = (uint16_t)(after << 8 | after >> 8);
  }
  checksum_update(field, before, after);
}

void segment_clamp_mss(uint8_t *packet, size_t length, uint16_t mss4, uint16_t mss6, bool partial) {
  struct inner inner;
  if (!inner_parse(&inner, packet, length) || !inner.whole || inner.fragment || inner.protocol != PROTOCOL_TCP) return;
  uint16_t clamp = inner.ipv6 ? mss6 : mss4;
  uint8_t *tcp = packet + inner.l3_length;
  size_t left = inner.length - inner.l3_length;
  if (clamp == 0 || left < TCP_MINIMUM || !(tcp[TCP_FLAGS] & TCP_SYN)) return;
  size_t tcp_length = (size_t)(tcp[TCP_DATA_OFFSET] >> 4) * 4;
  if (tcp_length > left) return;
  size_t offset = find_mss(tcp, tcp_length);
  if (offset == 0 || load16(tcp + offset) <= clamp) return;
  if (!partial) update_checksum(tcp + TCP_CHECKSUM, load16(tcp + offset), clamp, offset & 1);
  store16(tcp + offset, clamp);
}
