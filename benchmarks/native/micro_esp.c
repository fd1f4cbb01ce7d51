/* Seal and open alone: what esp.c adds to libipsec-mb's own call, in nanoseconds per packet of a burst of 32.
 *
 *   micro_esp SEED                   a line for each suite, direction and size
 *   micro_esp raw SUITE SIZE SECONDS libipsec-mb's seal rate alone, for the case that seals and sends
 *
 * Both are measured in turns, in random order, on the same buffers; the best of several turns counts, for everything
 * that disturbs a turn makes it longer.
 */
#include <string.h>

#include "clock.h"
#include "esp.h"
#include "raw.h"

enum { BURST = 32, TURNS = 9, TURN_PACKETS = 4096, SIZE_MOST = 9216, SPI = 0xbe0c1001 };

struct named_suite {
  const char *name;
  struct esp_suite suite;
  size_t key_length, integrity_length;
  enum raw_suite raw;
};

static const struct named_suite suites[] = {
    {"gcm-128", {ESP_AES_GCM_16, ESP_INTEG_NONE, false}, 20, 0, RAW_GCM_128},
    {"gcm-256", {ESP_AES_GCM_16, ESP_INTEG_NONE, false}, 36, 0, RAW_GCM_256},
    {"cbc-256-sha256", {ESP_AES_CBC, ESP_HMAC_SHA2_256_128, false}, 32, 32, RAW_CBC_256_SHA256},
};
static const size_t sizes[] = {64, 128, 256, 512, 1024, 1400, 8900};

struct bench {
  struct esp_thread *thread;
  struct esp_key *seal, *open;
  struct raw *raw;
  size_t size, stride, header, text; /* text: what is ciphered, trailer and padding included */
  uint64_t sequence;
};

static uint8_t arena[BURST * SIZE_MOST] __attribute__((aligned(64)));

static struct esp_key *new_key(enum esp_engine engine, const struct named_suite *suite, bool seal) {
  static const uint8_t key[64] = {9, 8, 7};
  const char *error = NULL;
  struct esp_key *made =
      esp_key_new(engine, &suite->suite, key, suite->key_length, key, suite->integrity_length, SPI, seal, &error);
  if (!made) die(error ? error : "no key");
  return made;
}

static struct bench bench_new(const struct named_suite *suite, size_t size) {
  enum esp_engine engine = esp_engine_resolve(ESP_ENGINE_AUTO);
  struct bench bench = {esp_thread_new(engine),
                        new_key(engine, suite, true),
                        new_key(engine, suite, false),
                        raw_new(suite->raw),
                        .size = size,
                        .sequence = 1};
  if (!bench.thread || !bench.raw) die("not available: libipsec-mb cannot be used here");
  size_t sealed = esp_sealed_length(bench.seal, size);
  bench.header = esp_header_length(bench.seal);
  bench.text = sealed - bench.header - 16; /* every suite here has an ICV of 16 octets */
  bench.stride = (sealed + 63) / 64 * 64;
  if (bench.stride > SIZE_MOST) die("the arena is too small");
  return bench;
}

static void bench_free(struct bench *bench) {
  esp_thread_free(bench->thread);
  esp_key_free(bench->seal);
  esp_key_free(bench->open);
  raw_free(bench->raw);
}

static void seal(struct bench *bench, struct esp_seal_item *items) {
  for (size_t i = 0; i < BURST; i++)
    items[i] = (struct esp_seal_item){.packet = arena + i * bench->stride,
                                      .payload_length = bench->size,
                                      .sequence = bench->sequence++,
                                      .next_header = 4};
  esp_seal(bench->thread, bench->seal, items, BURST);
}

static uint64_t ours_seal(struct bench *bench) {
  struct esp_seal_item items[BURST];
  uint64_t start = nanoseconds();
  seal(bench, items);
  uint64_t spent = nanoseconds() - start;
  for (size_t i = 0; i < BURST; i++)
    if (items[i].length == 0) die("seal failed");
  return spent;
}

static uint64_t ours_open(struct bench *bench) {
  struct esp_seal_item sealed[BURST];
  struct esp_open_item items[BURST];
  seal(bench, sealed);
  uint64_t start = nanoseconds();
  for (size_t i = 0; i < BURST; i++)
    items[i] =
        (struct esp_open_item){.packet = sealed[i].packet, .length = sealed[i].length, .sequence = sealed[i].sequence};
  esp_open(bench->thread, bench->open, items, BURST);
  uint64_t spent = nanoseconds() - start;
  for (size_t i = 0; i < BURST; i++)
    if (items[i].result != ESP_OK) die("open failed");
  return spent;
}

static uint64_t peer_seal(struct bench *bench) {
  uint64_t start = nanoseconds();
  raw_seal(bench->raw, arena + bench->header, bench->stride, bench->header, bench->text, BURST);
  return nanoseconds() - start;
}

static uint64_t peer_open(struct bench *bench) {
  raw_seal(bench->raw, arena + bench->header, bench->stride, bench->header, bench->text, BURST);
  uint64_t start = nanoseconds();
  raw_open(bench->raw, arena + bench->header, bench->stride, bench->header, bench->text, BURST);
  return nanoseconds() - start;
}

typedef uint64_t (*burst_function)(struct bench *);

static double turn(struct bench *bench, burst_function function) {
  uint64_t spent = 0;
  unsigned bursts = TURN_PACKETS / BURST;
  if (bench->size > 2000) bursts /= 4;
  for (unsigned i = 0; i < bursts; i++)
    spent += function(bench);
  return (double)spent / bursts / BURST;
}

static void compare(const struct named_suite *suite, size_t size, bool open, uint64_t *random) {
  struct bench bench = bench_new(suite, size);
  double best[2] = {1e18, 1e18};
  burst_function functions[2] = {open ? ours_open : ours_seal, open ? peer_open : peer_seal};
  for (int i = 0; i < TURNS; i++) {
    unsigned first = coin(random);
    for (unsigned k = 0; k < 2; k++) {
      double spent = turn(&bench, functions[first ^ k]);
      if (spent < best[first ^ k]) best[first ^ k] = spent;
    }
  }
  char name[64];
  snprintf(name, sizeof name, "%s-%s-%zu", open ? "open" : "seal", suite->name, size);
  say(name, best[0], best[1], "ns/packet");
  bench_free(&bench);
}

static const struct named_suite *suite_named(const char *name) {
  for (size_t i = 0; i < sizeof suites / sizeof suites[0]; i++)
    if (!strcmp(suites[i].name, name)) return &suites[i];
  die("unknown suite");
}

static int raw_rate(const char *suite, size_t size, double seconds) {
  struct bench bench = bench_new(suite_named(suite), size);
  uint64_t start = nanoseconds(), packets = 0, spent = 0;
  while (nanoseconds() - start < (uint64_t)(seconds * 1e9)) {
    spent += peer_seal(&bench);
    packets += BURST;
  }
  printf("{\"mpps\": %.4f}\n", (double)packets / (double)spent * 1e3);
  bench_free(&bench);
  return 0;
}

int main(int argc, char **argv) {
  pin(0);
  if (argc == 5 && !strcmp(argv[1], "raw")) return raw_rate(argv[2], (size_t)atoi(argv[3]), atof(argv[4]));
  if (argc != 2) die("usage: micro_esp SEED | micro_esp raw SUITE SIZE SECONDS");
  uint64_t random = strtoull(argv[1], NULL, 10);
  for (size_t s = 0; s < sizeof suites / sizeof suites[0]; s++)
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
      for (int open = 0; open < 2; open++)
        compare(&suites[s], sizes[i], open, &random);
  return 0;
}
