/* A fuzz target is LLVMFuzzerTestOneInput and a few seeds. Compiled by itself it is a test: every input that was kept
 * (seeds/NAME.txt, one in hexadecimal on each line, found by libFuzzer or because it once failed), then a mutator with
 * a fixed seed for FUZZ_SECONDS (0.4 unless the environment says more). With `--seeds` it prints the seeds it makes
 * itself. With -DLIBFUZZER and clang's -fsanitize=fuzzer the same target is run by libFuzzer
 * (tests/native/test_fuzzing.py).
 */
#ifndef GATEWAY_TESTS_FUZZ_H
#define GATEWAY_TESTS_FUZZ_H

#include <stdbool.h>
#include <time.h>

#include "check.h"

enum { FUZZ_INPUT_MAX = 4096, FUZZ_POOL = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* Seed `index` into `out` (room for FUZZ_INPUT_MAX); its octets, 0 when there is none. */
static size_t fuzz_seed(size_t index, uint8_t *out);

/* What an input is read by; past its end everything is zero. */
struct fuzz_reader {
  const uint8_t *data;
  size_t left;
};

static inline uint8_t fuzz_u8(struct fuzz_reader *reader) {
  if (reader->left == 0) return 0;
  reader->left--;
  return *reader->data++;
}

static inline uint16_t fuzz_u16(struct fuzz_reader *reader) {
  uint16_t high = fuzz_u8(reader);
  return (uint16_t)(high << 8 | fuzz_u8(reader));
}

#ifndef LIBFUZZER

struct fuzz_input {
  size_t length;
  uint8_t data[FUZZ_INPUT_MAX];
};

static const uint16_t fuzz_words[] = {0,  1,    4,    7,    8,    19,     20,     21,     39,     40,     41,
                                      59, 0x7f, 0x80, 0xff, 1280, 0x1fff, 0x2000, 0x7fff, 0x8000, 0xfff8, 0xffff};

static inline void fuzz_mutate(struct fuzz_input *input, const struct fuzz_input *other) {
  if (input->length == 0) input->length = 1;
  size_t at = random_below(input->length), left = input->length - at, some = 1 + random_below(left);
  uint16_t word = fuzz_words[random_below(sizeof fuzz_words / sizeof fuzz_words[0])];
  switch (random_below(8)) {
  case 0:
    input->data[at] ^= (uint8_t)(1 << random_below(8));
    break;
  case 1:
    input->data[at] = (uint8_t)random64();
    break;
  case 2:
    input->data[at] = (uint8_t)word;
    break;
  case 3:
    if (left >= 2) {
      input->data[at] = (uint8_t)(word >> 8);
      input->data[at + 1] = (uint8_t)word;
    }
    break;
  case 4: /* cut a piece out */
    memmove(input->data + at, input->data + at + some, left - some);
    input->length -= some;
    break;
  case 5: /* double a piece */
    if (input->length + some > FUZZ_INPUT_MAX) break;
    memmove(input->data + at + some, input->data + at, left);
    input->length += some;
    break;
  case 6: /* another's tail */
    if (other->length <= at) break;
    memcpy(input->data + at, other->data + at, other->length - at);
    input->length = other->length;
    break;
  default:
    input->length = at;
  }
}

static inline double fuzz_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static inline void fuzz_run(const struct fuzz_input *input) {
  uint8_t *exact = exact_copy(input->data, input->length);
  LLVMFuzzerTestOneInput(exact, input->length);
  free(exact);
}

static inline int fuzz_digit(int c) {
  return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One line; false at the end of the file. */
static inline bool fuzz_read(FILE *file, struct fuzz_input *input) {
  int high, low;
  input->length = 0;
  while ((high = fuzz_digit(fgetc(file))) >= 0 && (low = fuzz_digit(fgetc(file))) >= 0) {
    CHECK(input->length < FUZZ_INPUT_MAX);
    input->data[input->length++] = (uint8_t)(high << 4 | low);
  }
  return input->length > 0;
}

static inline void fuzz_print(const struct fuzz_input *input) {
  for (size_t i = 0; i < input->length; i++)
    printf("%02x", input->data[i]);
  printf("\n");
}

/* Runs what was kept; every one may become a mutant's ancestor. */
static inline size_t fuzz_kept(const char *path, struct fuzz_input *pool, size_t *mutants, size_t seeds) {
  static struct fuzz_input input;
  size_t count = 0;
  FILE *file = fopen(path, "r");
  CHECK(file);
  while (fuzz_read(file, &input)) {
    fuzz_run(&input);
    count++;
    size_t place = *mutants < FUZZ_POOL ? (*mutants)++ : seeds + random_below(FUZZ_POOL - seeds);
    pool[place] = input;
  }
  fclose(file);
  CHECK(count > 0);
  return count;
}

int main(int argc, char **argv) {
  static struct fuzz_input pool[FUZZ_POOL], input;
  const char *wanted = getenv("FUZZ_SECONDS");
  double seconds = wanted ? atof(wanted) : 0.4, end = fuzz_clock() + seconds;
  size_t seeds = 0, runs = 0, kept = 0;
  while (seeds < FUZZ_POOL - 1 && (pool[seeds].length = fuzz_seed(seeds, pool[seeds].data)) > 0)
    seeds++;
  CHECK(seeds > 0);
  if (argc > 1 && strcmp(argv[1], "--seeds") == 0) {
    for (size_t i = 0; i < seeds; i++)
      fuzz_print(&pool[i]);
    return 0;
  }
  for (size_t i = 0; i < seeds; i++)
    fuzz_run(&pool[i]);
  /* The rest of the pool are mutants that the next ones start from. */
  size_t mutants = seeds;
  if (argc > 1) kept = fuzz_kept(argv[1], pool, &mutants, seeds);
  while (runs % 64 != 0 || fuzz_clock() < end) {
    input = pool[random_below(mutants)];
    for (size_t i = 1 + random_below(6); i > 0; i--)
      fuzz_mutate(&input, &pool[random_below(mutants)]);
    fuzz_run(&input);
    runs++;
    if (random_below(100) == 0) {
      size_t place = seeds + random_below(FUZZ_POOL - seeds);
      if (place >= mutants) place = mutants++;
      pool[place] = input;
    }
  }
  printf("%zu seeds, %zu kept, %zu runs\n", seeds, kept, runs);
  return 0;
}

#endif
#endif
