/* Inner packets: their headers read once for all who ask (selectors, splitting, merging, MSS), field offsets,
 * big-endian access, pseudo-header sums (RFC 791, RFC 8200, RFC 9293, RFC 768).
 */
#ifndef GATEWAY_INNER_H
#define GATEWAY_INNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "segment.h"

enum { IPV4_MINIMUM = 20, IPV6_HEADER = 40, TCP_MINIMUM = 20, UDP_HEADER = 8 };
enum { PROTOCOL_TCP = 6, PROTOCOL_UDP = 17 };
enum { ECN_MASK = 3, ECN_NOT_ECT = 0, ECN_ECT_1 = 1, ECN_ECT_0 = 2, ECN_CE = 3 }; /* RFC 3168 5 */

enum {
  IPV4_TOS = 1,
  IPV4_TOTAL_LENGTH = 2,
  IPV4_ID = 4,
  IPV4_FRAGMENT = 6,
  IPV4_TTL = 8,
  IPV4_PROTOCOL = 9,
  IPV4_CHECKSUM = 10,
  IPV4_ADDRESSES = 12,
  IPV4_MORE_FRAGMENTS_AND_OFFSET = 0x3fff,
};
enum { IPV6_PAYLOAD_LENGTH = 4, IPV6_NEXT_HEADER = 6, IPV6_HOP_LIMIT = 7, IPV6_ADDRESSES = 8 };
enum {
  TCP_SEQUENCE = 4,
  TCP_ACK = 8,
  TCP_DATA_OFFSET = 12,
  TCP_FLAGS = 13,
  TCP_WINDOW = 14,
  TCP_CHECKSUM = 16,
  TCP_URGENT = 18
};
enum { TCP_FIN = 0x01, TCP_SYN = 0x02, TCP_PSH = 0x08, TCP_ACK_FLAG = 0x10, TCP_CWR = 0x80 };
enum { UDP_LENGTH = 4, UDP_CHECKSUM = 6 };

static inline uint16_t load16(const uint8_t *from) {
  return (uint16_t)(from[0] << 8 | from[1]);
}

static inline uint32_t load32(const uint8_t *from) {
  return (uint32_t)load16(from) << 16 | load16(from + 2);
}

static inline void store16(uint8_t *to, uint32_t value) {
  to[0] = (uint8_t)(value >> 8);
  to[1] = (uint8_t)value;
}

static inline void store32(uint8_t *to, uint32_t value) {
  store16(to, value >> 16);
  store16(to + 2, value);
}

/* A folded sum already has memory order. */
static inline void store_checksum(uint8_t *to, uint16_t folded) {
  memcpy(to, &folded, sizeof folded);
}

/* RFC 1624 3: HC' = ~(~HC + ~m + m'), for a word at an even offset. */
static inline void checksum_update(uint8_t *field, uint16_t before, uint16_t after) {
  uint32_t sum = (uint32_t)(uint16_t)~load16(field) + (uint16_t)~before + after;
  sum = (sum & 0xffff) + (sum >> 16);
  store16(field, (uint16_t)~((sum & 0xffff) + (sum >> 16)));
}

/* RFC 9293 3.1, RFC 8200 8.1: addresses, length of the L4 packet, protocol. */
static inline uint32_t pseudo_header_sum(const uint8_t *packet, bool ipv6, uint8_t protocol, size_t l4_octets) {
  uint8_t tail[8] = {0, 0, 0, 0, 0, 0, 0, protocol};
  store32(tail, (uint32_t)l4_octets);
  uint32_t sum = checksum_add(0, tail, sizeof tail);
  return ipv6 ? checksum_add(sum, packet + IPV6_ADDRESSES, 32) : checksum_add(sum, packet + IPV4_ADDRESSES, 8);
}

static inline size_t l4_checksum_offset(uint8_t protocol) {
  return protocol == PROTOCOL_TCP ? TCP_CHECKSUM : UDP_CHECKSUM;
}

/* Inner addresses in host order, IPv4 in `low`. */
struct address {
  uint64_t high, low;
};

/* An inner packet as its headers say. Every offset lies inside the buffer. */
struct inner {
  struct address source, destination;
  size_t length;      /* of the whole IP packet; never more than the buffer, which may hold TFC padding behind it */
  uint16_t l3_length; /* fixed header, IPv4 options, IPv6 extension headers */
  /* RFC 4301 4.4.1.1: what selectors look at. ICMP: type and code in both ports. */
  uint16_t source_port, destination_port;
  uint8_t protocol; /* of the last header reached */
  bool ipv6;
  bool whole;       /* every extension header lies inside the packet */
  bool fragment;    /* IPv4 MF or offset, or an IPv6 fragment header */
  bool routing;     /* IPv6 routing header: the pseudo-header's destination is not the header's */
  bool ports_known; /* not so in fragments but the first, nor where the transport header is missing or unreadable */
  bool syn;         /* TCP: it may carry an MSS */
};

/* False unless `length` octets begin with a whole IP packet whose fixed header does not contradict itself. */
bool inner_parse(struct inner *inner, const uint8_t *packet, size_t length);

#endif
