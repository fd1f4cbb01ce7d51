/* Builds and verifies inner packets for the tests, with a checksum of its own (two octets at a time, big-endian). */
#ifndef GATEWAY_TESTS_PACKETS_H
#define GATEWAY_TESTS_PACKETS_H

#include <stdbool.h>

#include "check.h"

enum { P_TCP = 6, P_UDP = 17 };

static inline uint32_t slow_sum(uint32_t sum, const uint8_t *data, size_t length) {
  for (size_t i = 0; i < length; i++)
    sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
  while (sum >> 16)
    sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

static inline void put16(uint8_t *to, size_t value) {
  to[0] = (uint8_t)(value >> 8);
  to[1] = (uint8_t)value;
}

static inline void put32(uint8_t *to, uint32_t value) {
  put16(to, value >> 16);
  put16(to + 2, value & 0xffff);
}

static inline uint16_t get16(const uint8_t *from) {
  return (uint16_t)(from[0] << 8 | from[1]);
}
static inline uint32_t get32(const uint8_t *from) {
  return (uint32_t)get16(from) << 16 | get16(from + 2);
}

static inline size_t l3_of(const uint8_t *packet) {
  return packet[0] >> 4 == 4 ? (size_t)(packet[0] & 15) * 4 : 40;
}

static inline uint32_t slow_pseudo(const uint8_t *packet, uint8_t protocol, size_t l4_octets) {
  uint8_t tail[4] = {0, protocol, (uint8_t)(l4_octets >> 8), (uint8_t)l4_octets};
  uint32_t sum = slow_sum(0, tail, 4);
  return packet[0] >> 4 == 4 ? slow_sum(sum, packet + 12, 8) : slow_sum(sum, packet + 8, 32);
}

/* Everything a test varies; zero fields give a plain ACK segment between fixed ports. */
struct recipe {
  bool ipv6;
  uint8_t protocol; /* P_TCP unless P_UDP */
  uint8_t flags;    /* TCP flags; 0 means ACK */
  uint8_t tos, ttl;
  uint16_t id, fragment, window;
  uint32_t sequence, ack;
  size_t options; /* octets of TCP options, a multiple of 4 */
  uint8_t option; /* what they are filled with; 0: no-operation */
  size_t ip_options;
  uint16_t source_port;
  size_t payload;
  uint8_t seed; /* of the payload */
};

static inline size_t build(uint8_t *out, const struct recipe *r) {
  uint8_t protocol = r->protocol ? r->protocol : P_TCP;
  size_t l3 = r->ipv6 ? 40 : 20 + r->ip_options, l4 = protocol == P_TCP ? 20 + r->options : 8;
  size_t length = l3 + l4 + r->payload;
  memset(out, 0, l3 + l4);
  if (r->ipv6) {
    put32(out, 0x60000000u | (uint32_t)r->tos << 20 | 0x12345);
    put16(out + 4, length - 40);
    out[6] = protocol;
    out[7] = r->ttl ? r->ttl : 64;
    for (size_t i = 8; i < 40; i++)
      out[i] = (uint8_t)(i * 7);
  } else {
    out[0] = (uint8_t)(0x40 | l3 / 4);
    out[1] = r->tos;
    put16(out + 2, length);
    put16(out + 4, r->id);
    put16(out + 6, r->fragment ? r->fragment : 0x4000);
    out[8] = r->ttl ? r->ttl : 64;
    out[9] = protocol;
    put32(out + 12, 0x0a000001);
    put32(out + 16, 0xc0a80102);
    memset(out + 20, 1, r->ip_options);
    put16(out + 10, (uint16_t)~slow_sum(0, out, l3));
  }
  uint8_t *t = out + l3;
  put16(t, r->source_port ? r->source_port : 4000);
  put16(t + 2, 5001);
  if (protocol == P_TCP) {
    put32(t + 4, r->sequence);
    put32(t + 8, r->ack);
    t[12] = (uint8_t)((20 + r->options) / 4 << 4);
    t[13] = r->flags ? r->flags : 0x10;
    put16(t + 14, r->window ? r->window : 512);
    memset(t + 20, r->option ? r->option : 1, r->options);
  } else {
    put16(t + 4, 8 + r->payload);
  }
  for (size_t i = 0; i < r->payload; i++)
    t[l4 + i] = (uint8_t)(r->seed + i * 31 + (i >> 8));
  uint16_t checksum = (uint16_t)~slow_sum(slow_pseudo(out, protocol, length - l3), t, length - l3);
  put16(t + (protocol == P_TCP ? 16 : 6), checksum ? checksum : 0xffff);
  return length;
}

/* Header and L4 checksums and all lengths agree. */
static inline bool is_sound(const uint8_t *packet, size_t length, uint8_t protocol) {
  size_t l3 = l3_of(packet);
  if (packet[0] >> 4 == 4 ? get16(packet + 2) != length || slow_sum(0, packet, l3) != 0xffff
                          : (size_t)get16(packet + 4) + 40 != length)
    return false;
  if (protocol == P_UDP && get16(packet + l3 + 4) != length - l3) return false;
  return slow_sum(slow_pseudo(packet, protocol, length - l3), packet + l3, length - l3) == 0xffff;
}

/* What a kernel does before it hands a packet over with NEEDS_CSUM. */
static inline void make_partial(uint8_t *packet, size_t length, uint8_t protocol) {
  size_t l3 = l3_of(packet);
  put16(packet + l3 + (protocol == P_TCP ? 16 : 6), slow_pseudo(packet, protocol, length - l3));
}

#endif
