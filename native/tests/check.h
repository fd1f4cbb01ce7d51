/* The assert harness of the C tests: a failed check says where and ends the process; main() lists the tests. */
#ifndef GATEWAY_TESTS_CHECK_H
#define GATEWAY_TESTS_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                               \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                                          \
      exit(1);                                                                                                         \
    }                                                                                                                  \
  } while (0)

#define RUN(test)                                                                                                      \
  do {                                                                                                                 \
    test();                                                                                                            \
    printf("ok %s\n", #test);                                                                                          \
  } while (0)

/* splitmix64: the same inputs in every run. */
static uint64_t random_state = 1;

static inline uint64_t random64(void) {
  uint64_t z = (random_state += UINT64_C(0x9e3779b97f4a7c15));
  z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
  return z ^ (z >> 31);
}

static inline size_t random_below(size_t bound) {
  return (size_t)(random64() % bound);
}

static inline void random_fill(uint8_t *out, size_t length) {
  for (size_t i = 0; i < length; i++)
    out[i] = (uint8_t)random64();
}

/* An exactly sized heap copy, so that AddressSanitizer sees one octet too far. */
static inline uint8_t *exact_copy(const uint8_t *from, size_t length) {
  uint8_t *copy = malloc(length ? length : 1);
  CHECK(copy);
  if (length) memcpy(copy, from, length);
  return copy;
}

#endif
