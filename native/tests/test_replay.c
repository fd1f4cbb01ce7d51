/* The anti-replay window: edges, jumps, wrap with ESN, and a slow model. */
#include "check.h"
#include "replay.h"

#define TWO32 (UINT64_C(1) << 32)

static void sizes_are_rounded_up_and_bounded(void) {
  struct replay_window window;
  static const uint32_t cases[][2] = {{1, 64}, {64, 64}, {65, 128}, {1000, 1024}, {4096, 4096}, {65536, 65536}, {0, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    CHECK(replay_init(&window, cases[i][0], false) && window.size == cases[i][1]);
    replay_free(&window);
  }
  CHECK(!replay_init(&window, REPLAY_WINDOW_MAX + 1, false));
}

static void both_edges_are_exact(void) {
  for (uint32_t size = 64; size <= 4096; size *= 4) {
    struct replay_window window;
    CHECK(replay_init(&window, size, false));
    CHECK(replay_accept(&window, 10000));
    CHECK(!replay_check(&window, 10000 - size));
    CHECK(replay_check(&window, 10000 - size + 1));
    CHECK(replay_accept(&window, 10000 - size + 1));
    CHECK(!replay_accept(&window, 10000 - size + 1));
    CHECK(!replay_accept(&window, 10000));
    CHECK(replay_accept(&window, 10001));
    CHECK(!replay_check(&window, 10001 - size)); /* accepted before, now left of the window */
    replay_free(&window);
  }
}

static void number_zero_and_wide_numbers_without_esn_are_refused(void) {
  struct replay_window window;
  CHECK(replay_init(&window, 64, false));
  CHECK(!replay_check(&window, 0) && !replay_accept(&window, 0));
  CHECK(replay_accept(&window, UINT32_MAX));
  CHECK(!replay_accept(&window, TWO32) && window.top == UINT32_MAX);
  replay_free(&window);
}

static void checking_changes_nothing(void) {
  struct replay_window window;
  CHECK(replay_init(&window, 64, false));
  for (int i = 0; i < 3; i++)
    CHECK(replay_check(&window, 500));
  CHECK(window.top == 0 && replay_accept(&window, 1) && replay_check(&window, 500));
  replay_free(&window);
}

static void jumps_leave_no_stale_marks(void) {
  static const uint64_t jumps[] = {1, 63, 64, 65, 127, 128, 129, 191, 192, 1000, 100000, TWO32 - 70};
  for (size_t j = 0; j < sizeof jumps / sizeof jumps[0]; j++) {
    struct replay_window window;
    CHECK(replay_init(&window, 128, true));
    for (uint64_t n = 1; n <= 300; n++)
      CHECK(replay_accept(&window, n));
    uint64_t top = 300 + jumps[j];
    CHECK(replay_accept(&window, top));
    for (uint64_t n = top - 127; n < top; n++)
      CHECK(replay_check(&window, n) == (n > 300));
    replay_free(&window);
  }
}

static void without_a_window_esn_is_still_inferred(void) {
  struct replay_window window;
  CHECK(replay_init(&window, 0, true));
  CHECK(replay_accept(&window, TWO32 - 1) && replay_accept(&window, TWO32 - 1));
  CHECK(replay_infer(&window, 5) == TWO32 + 5);
  CHECK(replay_accept(&window, TWO32 + 5));
  CHECK(replay_infer(&window, UINT32_MAX) == TWO32 - 1);
  CHECK(replay_accept(&window, 3) && window.top == TWO32 + 5);
  replay_free(&window);
}

/* RFC 4303 A2.1, both cases and all three subspaces. */
static void inference_follows_appendix_a2(void) {
  struct replay_window window;
  CHECK(replay_init(&window, 64, true));
  CHECK(replay_infer(&window, 1) == 1 &&
        replay_infer(&window, UINT32_MAX) == UINT32_MAX); /* nothing seen: first subspace */
  window.top = 3 * TWO32 + 1000;                          /* case A */
  CHECK(replay_infer(&window, 1000 - 63) == 3 * TWO32 + 937);
  CHECK(replay_infer(&window, 1000 - 64) == 4 * TWO32 + 936);
  CHECK(replay_infer(&window, UINT32_MAX) == 3 * TWO32 + UINT32_MAX);
  CHECK(replay_infer(&window, 0) == 4 * TWO32);
  window.top = 3 * TWO32 + 63; /* case A at its edge: the window begins with the subspace */
  CHECK(replay_infer(&window, 0) == 3 * TWO32 && replay_infer(&window, UINT32_MAX) == 3 * TWO32 + UINT32_MAX);
  window.top = 3 * TWO32 + 62; /* case B: one number lies in the subspace before */
  CHECK(replay_infer(&window, UINT32_MAX) == 3 * TWO32 - 1);
  CHECK(replay_infer(&window, UINT32_MAX - 1) == 3 * TWO32 + UINT32_MAX - 1);
  CHECK(replay_infer(&window, 0) == 3 * TWO32 && replay_infer(&window, 63) == 3 * TWO32 + 63);
  window.top = 10; /* case B in the first subspace: there is none before */
  CHECK(replay_infer(&window, UINT32_MAX) == UINT32_MAX);
  replay_free(&window);
}

static void a_stream_crosses_two_to_the_32(void) {
  struct replay_window window;
  CHECK(replay_init(&window, 256, true));
  CHECK(replay_accept(&window, TWO32 - 1000));
  for (uint64_t n = TWO32 - 999; n < TWO32 + 1000; n++) {
    uint64_t late = n - 200; /* reordered by 200 */
    CHECK(replay_infer(&window, (uint32_t)n) == n);
    if (n % 3) CHECK(replay_accept(&window, n));
    if (late % 3 == 0 && late > TWO32 - 1000 && window.top - late < 256) {
      CHECK(replay_infer(&window, (uint32_t)late) == late && replay_accept(&window, late));
      CHECK(!replay_accept(&window, late));
    }
  }
  replay_free(&window);
}

static void without_esn_low_is_the_number(void) {
  struct replay_window window;
  CHECK(replay_init(&window, 64, false));
  window.top = UINT32_MAX;
  CHECK(replay_infer(&window, 3) == 3 && !replay_check(&window, 3));
  replay_free(&window);
}

/* Against a model that remembers every number in a plain array. */
static void random_streams_match_a_model(void) {
  enum { SPACE = 20000 };
  static uint8_t seen[SPACE];
  for (uint32_t size = 64; size <= 1024; size *= 2) {
    struct replay_window window;
    uint64_t top = 0;
    memset(seen, 0, sizeof seen);
    CHECK(replay_init(&window, size, false));
    for (int i = 0; i < 60000; i++) {
      int64_t jump = (int64_t)random_below(random_below(50) == 0 ? 3 * size : 40) - 20 - (int64_t)random_below(size);
      if (random_below(4)) jump = (int64_t)random_below(12) - 6;
      int64_t number = (int64_t)top + jump;
      if (number < 0 || number >= SPACE) continue;
      uint64_t n = (uint64_t)number;
      bool expected = n != 0 && (n > top || (top - n < size && !seen[n]));
      CHECK(replay_check(&window, n) == expected);
      if (random_below(3) == 0) continue;
      CHECK(replay_accept(&window, n) == expected);
      if (!expected) continue;
      seen[n] = 1;
      if (n > top) top = n;
      CHECK(window.top == top);
    }
    CHECK(top > SPACE / 2);
    replay_free(&window);
  }
}

int main(void) {
  RUN(sizes_are_rounded_up_and_bounded);
  RUN(both_edges_are_exact);
  RUN(number_zero_and_wide_numbers_without_esn_are_refused);
  RUN(checking_changes_nothing);
  RUN(jumps_leave_no_stale_marks);
  RUN(without_a_window_esn_is_still_inferred);
  RUN(inference_follows_appendix_a2);
  RUN(a_stream_crosses_two_to_the_32);
  RUN(without_esn_low_is_the_number);
  RUN(random_streams_match_a_model);
  return 0;
}
