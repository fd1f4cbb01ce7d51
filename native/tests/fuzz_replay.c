/* The replay window against a model that remembers every number it took (RFC 4303 3.4.3, A2). */
#include "fuzz.h"
#include "replay.h"

enum { TAKEN_MAX = 2048 };

static bool expected(const struct replay_window *window, uint64_t top, const uint64_t *taken, size_t count,
                     uint64_t number) {
  if (number == 0 || (!window->esn && number > UINT32_MAX)) return false;
  if (number > top || window->size == 0) return true;
  if (top - number >= window->size) return false;
  for (size_t i = 0; i < count; i++)
    if (taken[i] == number) return false;
  return true;
}

/* A2.1 finds every number that is inside the window, or ahead by less than 2^32 - W. */
static void check_inference(const struct replay_window *window, uint64_t top, uint64_t number) {
  if (!window->esn || window->size == 0) return;
  if (number <= top ? top - number < window->size : number - top <= UINT32_MAX - window->size)
    CHECK(replay_infer(window, (uint32_t)number) == number);
}

static uint64_t pick(struct fuzz_reader *in, uint64_t top, uint32_t size) {
  uint8_t kind = fuzz_u8(in);
  uint64_t delta = fuzz_u16(in);
  switch (kind % 8) {
  case 0:
    return top + delta % 8;
  case 1:
    return top - delta % 8;
  case 2:
    return top - size + delta % 8 - 4; /* the left edge */
  case 3:
    return top + (delta << (kind / 8));
  case 4:
    return (top & ~UINT64_C(0xffffffff)) + UINT32_MAX - delta % 64;
  case 5:
    return (top & ~UINT64_C(0xffffffff)) + (UINT64_C(1) << 32) + delta % 64;
  case 6:
    return top - delta;
  default:
    return top - delta % (size + 1);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static uint64_t taken[TAKEN_MAX];
  struct fuzz_reader in = {data, size};
  struct replay_window window;
  uint8_t shape = fuzz_u8(&in);
  uint32_t wanted = shape % 16 == 15 ? 0 : 1u << shape % 16;
  CHECK(replay_init(&window, wanted, shape & 16));
  uint64_t top = 0;
  size_t count = 0;
  while (in.left > 0 && count < TAKEN_MAX) {
    uint64_t number = pick(&in, top, window.size);
    bool good = expected(&window, top, taken, count, number);
    check_inference(&window, top, number);
    CHECK(replay_check(&window, number) == good);
    if (fuzz_u8(&in) & 1) continue;
    CHECK(replay_accept(&window, number) == good);
    if (!good) continue;
    taken[count++] = number;
    if (number > top) top = number;
    CHECK(window.top == top);
  }
  replay_free(&window);
  return 0;
}

static size_t fuzz_seed(size_t index, uint8_t *out) {
  if (index >= 32) return 0;
  out[0] = (uint8_t)index;
  for (size_t i = 1; i < 800; i++)
    out[i] = (uint8_t)random64();
  return 800;
}
