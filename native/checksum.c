/* Internet checksum (RFC 1071), summed in memory order so that no octet is swapped: a folded sum is stored as it is.
 *
 * Blocks of 32 octets go through vectors; a second copy of the loop for AVX2 is chosen at load time.
 */
#include <string.h>

#include "segment.h"

typedef uint64_t block __attribute__((vector_size(32)));

/* Load-time resolvers run before a sanitizer's runtime is there. */
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

static inline uint32_t narrow(uint64_t sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  return (uint32_t)((sum & 0xffffffff) + (sum >> 32));
}

/* The last 31 octets or fewer; an odd one is followed by a zero octet (RFC 1071 2). */
static inline uint64_t sum_rest(const uint8_t *data, size_t length) {
  uint64_t sum = 0;
  uint32_t word;
  for (; length >= sizeof word; length -= sizeof word, data += sizeof word) {
    memcpy(&word, data, sizeof word);
    sum += word;
  }
  word = 0;
  memcpy(&word, data, length);
  return sum + word;
}

static inline uint64_t sum_lanes(const block *low, const block *high) {
  block both = *low + *high;
  return both[0] + both[1] + both[2] + both[3];
}

/* Each 64-bit lane takes 32-bit halves: no carry for 2^32 blocks. */
CLONES uint32_t checksum_add(uint32_t sum, const void *data, size_t length) {
  const uint8_t *from = data;
  block low = {0}, high = {0}, value;
  for (; length >= sizeof value; length -= sizeof value, from += sizeof value) {
    memcpy(&value, from, sizeof value);
    low += value & 0xffffffff;
    high += value >> 32;
  }
  return narrow(narrow(sum_lanes(&low, &high)) + sum_rest(from, length) + sum);
}

CLONES uint32_t checksum_copy(uint32_t sum, void *to, const void *data, size_t length) {
  const uint8_t *from = data;
  uint8_t *out = to;
  block low = {0}, high = {0}, value;
  for (; length >= sizeof value; length -= sizeof value, from += sizeof value, out += sizeof value) {
    memcpy(&value, from, sizeof value);
    memcpy(out, &value, sizeof value);
    low += value & 0xffffffff;
    high += value >> 32;
  }
  memcpy(out, from, length);
  return narrow(narrow(sum_lanes(&low, &high)) + sum_rest(from, length) + sum);
}

uint16_t checksum_fold(uint32_t sum) {
  sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)~((sum & 0xffff) + (sum >> 16));
}
