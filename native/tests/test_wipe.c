/* What held keys is zero when it is given back to the allocator: key schedules, digest states, a thread's cipher state.
 * Link with --wrap=aligned_alloc, calloc and free. */
#include "esp_pair.h"

enum { SMALL = 128, ROUNDING = 64, BLOCKS = 4096 };

static struct {
  void *block;
  size_t size; /* as asked for: what the allocator adds is not ours */
} blocks[BLOCKS];
static size_t watched, large;

void *__real_calloc(size_t count, size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void __real_free(void *block);
void __wrap_free(void *block);

static void *noted(void *block, size_t size) {
  size_t i = 0;
  while (i < BLOCKS && blocks[i].block)
    i++;
  CHECK(block && i < BLOCKS);
  blocks[i].block = block;
  blocks[i].size = size;
  return block;
}

void *__wrap_calloc(size_t count, size_t size) {
  return noted(__real_calloc(count, size), count * size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size) {
  return noted(__real_aligned_alloc(alignment, size), size);
}

/* Small blocks are the handles around the secrets; large ones are rounded up to a cache line. */
static void inspect(const uint8_t *block, size_t size) {
  if (size <= SMALL) return;
  watched++;
  large += size > 100000;
  for (size_t i = 0; i < size - ROUNDING; i++)
    CHECK(block[i] == 0);
}

void __wrap_free(void *block) {
  for (size_t i = 0; i < BLOCKS && block; i++) {
    if (blocks[i].block != block) continue;
    inspect(block, blocks[i].size);
    blocks[i].block = NULL;
  }
  __real_free(block);
}

/* A burst through one suite, large enough for the multi-buffer path, and back. */
static void use_and_free(enum esp_engine engine, const struct named_suite *suite) {
  struct esp_seal_item items[BURST];
  struct esp_open_item opened[BURST];
  size_t lengths[BURST];
  for (size_t i = 0; i < BURST; i++)
    lengths[i] = 1 + random_below(1400);
  struct pair pair = new_pair(engine, engine, suite);
  fill(&pair, items, lengths, BURST, 1);
  for (size_t i = 0; i < BURST; i++) {
    CHECK(items[i].length > 0);
    opened[i] =
        (struct esp_open_item){.packet = items[i].packet, .length = items[i].length, .sequence = items[i].sequence};
  }
  esp_open(pair.open_thread, pair.open, opened, BURST);
  for (size_t i = 0; i < BURST; i++)
    CHECK(opened[i].result == ESP_OK);
  watched = large = 0;
  free_pair(&pair);
  CHECK(watched >= 4);                                 /* two keys, two threads */
  if (engine == ESP_ENGINE_IPSECMB) CHECK(large >= 2); /* and the library's state of each thread */
}

static void keys_are_wiped(void) {
  for (size_t e = 0; e < engine_count; e++)
    for (size_t s = 0; s < SUITES; s++)
      use_and_free(engines[e], &suites[s]);
}

int main(void) {
  setup();
  RUN(keys_are_wiped);
  return 0;
}
