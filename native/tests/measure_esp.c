/* Not a test: nanoseconds per packet by suite, engine, direction, length and burst size. The burst minima of
 * aead_ipsecmb.c come from here.
 */
#include <time.h>

#include "esp_pair.h"

static double nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double measure_one(const struct pair *pair, size_t length, size_t burst, bool open) {
  struct esp_seal_item items[BURST];
  struct esp_open_item back[BURST];
  uint64_t rounds = 60000 / burst;
  double best = 1e18;
  for (int repeat = 0; repeat < 5; repeat++) {
    double spent = 0;
    for (uint64_t r = 0; r < rounds / 5; r++) {
      for (size_t i = 0; i < burst; i++)
        items[i] =
            (struct esp_seal_item){.packet = arena[i], .payload_length = length, .sequence = 1 + i, .next_header = 4};
      double start = nanoseconds();
      esp_seal(pair->seal_thread, pair->seal, items, burst);
      if (!open) spent += nanoseconds() - start;
      if (!open) continue;
      for (size_t i = 0; i < burst; i++)
        back[i] = (struct esp_open_item){.packet = arena[i], .length = items[i].length, .sequence = 1 + i};
      start = nanoseconds();
      esp_open(pair->open_thread, pair->open, back, burst);
      spent += nanoseconds() - start;
    }
    double mean = spent / (double)(rounds / 5) / (double)burst;
    if (mean < best) best = mean;
  }
  return best;
}

static void measure(void) {
  static const size_t bursts[] = {1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 44, 128}, which[] = {0, 2, 8, 12, 14};
  for (size_t w = 0; w < sizeof which / sizeof which[0]; w++)
    for (size_t e = 0; e < engine_count; e++)
      for (int open = 0; open < 2; open++)
        for (size_t length = 64; length <= 1400; length += 1336) {
          struct pair pair = new_pair(engines[e], engines[e], &suites[which[w]]);
          printf("%-20s %-26s %-4s %4zu:", suites[which[w]].name, esp_engine_name(engines[e]), open ? "open" : "seal",
                 length);
          for (size_t b = 0; b < sizeof bursts / sizeof bursts[0]; b++)
            printf(" %zu=%.0f", bursts[b], measure_one(&pair, length, bursts[b], open));
          printf("\n");
          free_pair(&pair);
        }
}

int main(void) {
  setup();
  measure();
  return 0;
}
