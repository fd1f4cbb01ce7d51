/* The Internet checksum against an octet-wise one, at every length and alignment that takes another path. */
#include "check.h"
#include "packets.h"
#include "segment.h"

static uint16_t memory_order(uint32_t big_endian) {
  uint8_t octets[2] = {(uint8_t)(big_endian >> 8), (uint8_t)big_endian};
  uint16_t value;
  memcpy(&value, octets, 2);
  return value;
}

static void every_length_and_alignment_matches(void) {
  uint8_t data[700], copied[700];
  random_fill(data, sizeof data);
  for (size_t offset = 0; offset < 9; offset++)
    for (size_t length = 0; length < 600; length++) {
      uint16_t expected = memory_order((uint16_t)~slow_sum(0, data + offset, length));
      uint8_t *exact = exact_copy(data + offset, length);
      CHECK(checksum_fold(checksum_add(0, exact, length)) == expected);
      memset(copied, 0, sizeof copied);
      CHECK(checksum_fold(checksum_copy(0, copied + offset % 3, exact, length)) == expected);
      CHECK(memcmp(copied + offset % 3, exact, length) == 0 && copied[offset % 3 + length] == 0);
      free(exact);
    }
}

static void pieces_add_up(void) {
  uint8_t data[3000];
  random_fill(data, sizeof data);
  for (size_t cut = 0; cut <= sizeof data; cut += 2) {
    uint32_t sum = checksum_add(checksum_add(0, data, cut), data + cut, sizeof data - cut);
    CHECK(checksum_fold(sum) == checksum_fold(checksum_add(0, data, sizeof data)));
  }
}

static void saturated_data_does_not_overflow(void) {
  static uint8_t ones[65536];
  memset(ones, 0xff, sizeof ones);
  uint32_t sum = UINT32_MAX;
  for (int i = 0; i < 10; i++)
    sum = checksum_add(sum, ones, sizeof ones);
  CHECK(checksum_fold(sum) == 0);
  sum = checksum_add(sum, "\x12\x34", 2);
  CHECK(checksum_fold(sum) == memory_order((uint16_t)~0x1234));
}

static void rfc1071_example_matches(void) {
  /* RFC 1071 3: 0001 f203 f4f5 f6f7 sums to ddf2 */
  CHECK(checksum_fold(checksum_add(0, "\x00\x01\xf2\x03\xf4\xf5\xf6\xf7", 8)) == memory_order((uint16_t)~0xddf2));
}

int main(void) {
  RUN(every_length_and_alignment_matches);
  RUN(pieces_add_up);
  RUN(saturated_data_does_not_overflow);
  RUN(rfc1071_example_matches);
  return 0;
}
