/* Reading the headers of inner packets. They come from hosts behind this gateway or behind the peer: nothing in them is
 * trusted, every offset is checked against the buffer.
 */
#include "inner.h"

#include <netinet/in.h>

#define IPV6_EXTENSIONS_MAX 8
#define IPV4_OFFSET_MASK    0x1fff
#define IPV6_OFFSET_MASK    0xfff8
#define IPPROTO_MOBILITY    135

static uint64_t load64(const uint8_t *from) {
  return (uint64_t)load32(from) << 32 | load32(from + 4);
}

/* `left` octets stand from the transport header on. */
static void read_ports(struct inner *inner, const uint8_t *transport, size_t left) {
  switch (inner->protocol) {
  case IPPROTO_TCP:
    inner->syn = left >= TCP_MINIMUM && (transport[TCP_FLAGS] & TCP_SYN);
    /* fall through */
  case IPPROTO_UDP:
  case IPPROTO_UDPLITE:
  case IPPROTO_SCTP:
  case IPPROTO_DCCP:
    if (left < 4) return;
    inner->source_port = load16(transport);
    inner->destination_port = load16(transport + 2);
    break;
  case IPPROTO_ICMP:
  case IPPROTO_ICMPV6:
    if (left < 2) return;
    inner->source_port = inner->destination_port = load16(transport);
    break;
  case IPPROTO_MOBILITY:
    if (left < 3) return;
    inner->source_port = inner->destination_port = (uint16_t)(transport[2] << 8);
    break;
  default:
    return;
  }
  inner->ports_known = true;
}

static bool parse_ipv4(struct inner *inner, const uint8_t *packet, size_t length) {
  if (length < IPV4_MINIMUM) return false;
  size_t header = (size_t)(packet[0] & 0x0f) * 4, total = load16(packet + IPV4_TOTAL_LENGTH);
  if (header < IPV4_MINIMUM || total < header || total > length) return false;
  uint32_t fragment = load16(packet + IPV4_FRAGMENT);
  *inner = (struct inner){.source = {0, load32(packet + IPV4_ADDRESSES)},
                          .destination = {0, load32(packet + IPV4_ADDRESSES + 4)},
                          .length = total,
                          .l3_length = (uint16_t)header,
                          .protocol = packet[IPV4_PROTOCOL],
                          .whole = true,
                          .fragment = (fragment & IPV4_MORE_FRAGMENTS_AND_OFFSET) != 0};
  if ((fragment & IPV4_OFFSET_MASK) == 0) read_ports(inner, packet + header, total - header);
  return true;
}

static bool is_extension(uint8_t next_header) {
  return next_header == IPPROTO_HOPOPTS || next_header == IPPROTO_ROUTING || next_header == IPPROTO_FRAGMENT ||
         next_header == IPPROTO_DSTOPTS;
}

/* Walks the extension headers (RFC 8200 4) that may stand before a transport header. A later fragment ends the walk:
 * what follows its header is the middle of something. */
static void walk_extensions(struct inner *inner, const uint8_t *packet) {
  size_t offset = IPV6_HEADER;
  uint8_t next = packet[IPV6_NEXT_HEADER];
  bool first = true;
  for (int i = 0; i < IPV6_EXTENSIONS_MAX && is_extension(next) && first && inner->whole; i++) {
    size_t left = inner->length - offset;
    inner->whole = left >= 8;
    if (!inner->whole) break;
    bool fragment = next == IPPROTO_FRAGMENT;
    size_t octets = fragment ? 8 : ((size_t)packet[offset + 1] + 1) * 8;
    if (fragment) first = (load16(packet + offset + 2) & IPV6_OFFSET_MASK) == 0;
    inner->fragment |= fragment;
    inner->routing |= next == IPPROTO_ROUTING;
    inner->whole = left >= octets;
    next = packet[offset];
    if (inner->whole) offset += octets;
  }
  inner->protocol = next;
  inner->l3_length = (uint16_t)offset;
  if (first && inner->whole) read_ports(inner, packet + offset, inner->length - offset);
}

static bool parse_ipv6(struct inner *inner, const uint8_t *packet, size_t length) {
  if (length < IPV6_HEADER) return false;
  size_t total = IPV6_HEADER + (size_t)load16(packet + IPV6_PAYLOAD_LENGTH);
  if (total > length) return false;
  *inner = (struct inner){.source = {load64(packet + IPV6_ADDRESSES), load64(packet + IPV6_ADDRESSES + 8)},
                          .destination = {load64(packet + IPV6_ADDRESSES + 16), load64(packet + IPV6_ADDRESSES + 24)},
                          .length = total,
                          .ipv6 = true,
                          .whole = true};
  walk_extensions(inner, packet);
  return true;
}

bool inner_parse(struct inner *inner, const uint8_t *packet, size_t length) {
  if (length == 0) return false;
  switch (packet[0] >> 4) {
  case 4:
    return parse_ipv4(inner, packet, length);
  case 6:
    return parse_ipv6(inner, packet, length);
  default:
    return false;
  }
}
