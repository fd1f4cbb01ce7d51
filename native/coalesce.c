/* Merging the inner packets of one inbound burst into super-packets for the TUN.
 *
 * What is merged is handed over with NEEDS_CSUM, so the kernel trusts it: every checksum is verified here before two
 * packets become one, and a packet that cannot be verified goes alone and untouched. The packets are authenticated but
 * their authors (hosts behind the peer) are not trusted.
 */
#include "inner.h"
#include "segment.h"

enum { IP_PACKET_MAX = 65535 };

/* What merging looks at; all offsets proved to lie inside the packet. */
struct candidate {
  uint8_t *packet;
  size_t length;
  bool ipv6;
  uint8_t protocol;
  size_t l3_length, header_length, payload;
  bool last; /* PSH: may join, but ends the super-packet */
};

static void start(struct coalescer *c, uint8_t *packet, size_t length);

/* ---- candidates ---- */

/* Only plain ACK and PSH data segments merge: any other flag has a meaning of its own to the receiver. */
static bool parse_tcp(struct candidate *candidate, const uint8_t *tcp, size_t left) {
  if (left < TCP_MINIMUM) return false;
  size_t tcp_length = (size_t)(tcp[TCP_DATA_OFFSET] >> 4) * 4;
  if (tcp_length < TCP_MINIMUM || tcp_length >= left) return false;
  if ((tcp[TCP_FLAGS] & ~TCP_PSH) != TCP_ACK_FLAG) return false;
  candidate->last = (tcp[TCP_FLAGS] & TCP_PSH) != 0;
  candidate->header_length = candidate->l3_length + tcp_length;
  candidate->payload = left - tcp_length;
  return true;
}

/* A zero checksum (RFC 768) cannot be verified, so such a datagram goes alone. */
static bool parse_udp(struct candidate *candidate, const uint8_t *udp, size_t left) {
  if (left <= UDP_HEADER || load16(udp + UDP_LENGTH) != left || load16(udp + UDP_CHECKSUM) == 0) return false;
  candidate->header_length = candidate->l3_length + UDP_HEADER;
  candidate->payload = left - UDP_HEADER;
  return true;
}

static bool parse(struct candidate *candidate, uint8_t *packet, const struct inner *inner, bool merge_udp) {
  if (!inner->whole || inner->fragment) return false;
  /* IPv4 options and IPv6 extension headers are rare, and the kernel's own GRO does not merge them either. */
  if (inner->l3_length != (inner->ipv6 ? IPV6_HEADER : IPV4_MINIMUM)) return false;
  candidate->packet = packet;
  candidate->length = inner->length;
  candidate->ipv6 = inner->ipv6;
  candidate->protocol = inner->protocol;
  candidate->l3_length = inner->l3_length;
  candidate->last = false;
  const uint8_t *l4 = packet + inner->l3_length;
  size_t left = inner->length - inner->l3_length;
  if (inner->protocol == PROTOCOL_TCP) return parse_tcp(candidate, l4, left);
  return merge_udp && inner->protocol == PROTOCOL_UDP && parse_udp(candidate, l4, left);
}

static bool checksums_verify(const uint8_t *packet, size_t length, bool ipv6, uint8_t protocol, size_t l3_length) {
  if (!ipv6 && checksum_fold(checksum_add(0, packet, l3_length)) != 0) return false;
  uint32_t sum = pseudo_header_sum(packet, ipv6, protocol, length - l3_length);
  return checksum_fold(checksum_add(sum, packet + l3_length, length - l3_length)) == 0;
}

/* ---- same flow ---- */

static bool same(const uint8_t *a, const uint8_t *b, size_t offset, size_t count) {
  return memcmp(a + offset, b + offset, count) == 0;
}

static bool same_l3(const uint8_t *head, const uint8_t *other, bool ipv6) {
  /* Traffic class and flow label; TOS; hop limit; DF: all but the length and the IPv4 id. */
  if (ipv6) return same(head, other, 0, 4) && same(head, other, IPV6_NEXT_HEADER, 2 + 32);
  return same(head, other, 0, 2) && same(head, other, IPV4_FRAGMENT, 4) && same(head, other, IPV4_ADDRESSES, 8);
}

static bool same_l4(const uint8_t *head, const uint8_t *other, uint8_t protocol, size_t l4_length) {
  if (!same(head, other, 0, 4)) return false; /* ports */
  if (protocol == PROTOCOL_UDP) return true;
  return same(head, other, TCP_ACK, 5) && same(head, other, TCP_WINDOW, 2) &&
         same(head, other, TCP_URGENT, l4_length - TCP_URGENT);
}

static bool may_join(const struct coalescer *c, const struct candidate *next) {
  if (next->ipv6 != c->ipv6 || next->protocol != c->l4_protocol || next->header_length != c->header_length)
    return false;
  if (next->payload > c->segment_size || c->total + next->payload > IP_PACKET_MAX) return false;
  if (!same_l3(c->head, next->packet, c->ipv6)) return false;
  const uint8_t *l4 = next->packet + c->l3_length;
  if (!same_l4(c->head + c->l3_length, l4, c->l4_protocol, c->header_length - c->l3_length)) return false;
  return c->l4_protocol == PROTOCOL_UDP || load32(l4 + TCP_SEQUENCE) == c->next_sequence;
}

/* ---- public ---- */

void coalescer_reset(struct coalescer *c) {
  c->iov_count = 0;
  c->segments = 0;
  c->total = 0;
}

bool coalescer_add(struct coalescer *c, uint8_t *packet, size_t length, bool merge_udp) {
  struct inner inner;
  if (inner_parse(&inner, packet, length) && inner.length == length)
    return coalescer_add_parsed(c, packet, &inner, merge_udp);
  if (c->iov_count) return false;
  start(c, packet, length);
  return true;
}

bool coalescer_add_parsed(struct coalescer *c, uint8_t *packet, const struct inner *inner, bool merge_udp) {
  struct candidate next;
  size_t length = inner->length;
  bool mergeable = !(c->iov_count && c->closed) && parse(&next, packet, inner, merge_udp);
  if (c->iov_count == 0) {
    start(c, packet, length);
    if (!mergeable) return true;
    c->closed = next.last;
    c->ipv6 = next.ipv6;
    c->l4_protocol = next.protocol;
    c->l3_length = next.l3_length;
    c->header_length = next.header_length;
    c->segment_size = next.payload;
    if (next.protocol == PROTOCOL_TCP)
      c->next_sequence = load32(packet + next.l3_length + TCP_SEQUENCE) + (uint32_t)next.payload;
    return true;
  }
  if (!mergeable || c->segments >= COALESCE_SEGMENTS_MAX || !may_join(c, &next)) return false;
  if (!c->verified && !checksums_verify(c->head, c->head_length, c->ipv6, c->l4_protocol, c->l3_length)) {
    c->closed = true;
    return false;
  }
  c->verified = true;
  if (!checksums_verify(packet, length, next.ipv6, next.protocol, next.l3_length)) return false;
  c->iov[c->iov_count++] = (struct iovec){.iov_base = packet + next.header_length, .iov_len = next.payload};
  c->segments++;
  c->total += next.payload;
  c->next_sequence += (uint32_t)next.payload;
  /* RFC 9293 3.9.1: PSH reaches the reader; the kernel's GRO sets it on the merged head likewise. */
  if (next.last) c->head[c->l3_length + TCP_FLAGS] |= TCP_PSH;
  c->closed = next.last || next.payload < c->segment_size;
  return true;
}

/* An unmergeable packet stays `closed`. */
static void start(struct coalescer *c, uint8_t *packet, size_t length) {
  c->head = packet;
  c->head_length = c->total = length;
  c->segments = 1;
  c->closed = true;
  c->verified = false;
  c->iov[0] = (struct iovec){.iov_base = &c->vnet, .iov_len = sizeof c->vnet};
  c->iov[1] = (struct iovec){.iov_base = packet, .iov_len = length};
  c->iov_count = 2;
}

static uint8_t gso_type(const struct coalescer *c) {
  if (c->l4_protocol == PROTOCOL_UDP) return VIRTIO_NET_HDR_GSO_UDP_L4;
  return c->ipv6 ? VIRTIO_NET_HDR_GSO_TCPV6 : VIRTIO_NET_HDR_GSO_TCPV4;
}

void coalescer_finish(struct coalescer *c) {
  c->vnet = (struct virtio_net_hdr_v1){.gso_type = VIRTIO_NET_HDR_GSO_NONE};
  if (c->segments <= 1) return;
  uint8_t *l4 = c->head + c->l3_length;
  size_t l4_octets = c->total - c->l3_length;
  c->vnet = (struct virtio_net_hdr_v1){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                       .gso_type = gso_type(c),
                                       .hdr_len = (uint16_t)c->header_length,
                                       .gso_size = (uint16_t)c->segment_size,
                                       .csum_start = (uint16_t)c->l3_length,
                                       .csum_offset = (uint16_t)l4_checksum_offset(c->l4_protocol)};
  if (c->ipv6) {
    store16(c->head + IPV6_PAYLOAD_LENGTH, (uint32_t)(c->total - IPV6_HEADER));
  } else {
    store16(c->head + IPV4_TOTAL_LENGTH, (uint32_t)c->total);
    store16(c->head + IPV4_CHECKSUM, 0);
    store_checksum(c->head + IPV4_CHECKSUM, checksum_fold(checksum_add(0, c->head, c->l3_length)));
  }
  if (c->l4_protocol == PROTOCOL_UDP) store16(l4 + UDP_LENGTH, (uint32_t)l4_octets);
  /* virtio 1.2 5.1.6.2: the field holds the pseudo-header sum, not complemented. */
  uint16_t partial = (uint16_t)~checksum_fold(pseudo_header_sum(c->head, c->ipv6, c->l4_protocol, l4_octets));
  store_checksum(l4 + l4_checksum_offset(c->l4_protocol), partial);
}
