/* Anti-replay window: a ring of bits indexed by sequence number modulo its size (RFC 6479 2.2).
 *
 * The ring has one 64-bit word more than the window needs, doubled up to a power of two of words, so that moving the
 * window clears whole words only. Every bit between the window's left edge and `top` tells the truth; words to the
 * right of `top` are zeroed when `top` moves into them.
 */
#include "replay.h"

#include <stdlib.h>
#include <string.h>

enum { WORD_BITS = 64, MINIMUM_SIZE = 64 };

/* A power of two of words, at least one more than the window fills. */
static uint64_t ring_words(const struct replay_window *window) {
  return (uint64_t)window->size / WORD_BITS * 2;
}

bool replay_init(struct replay_window *window, uint32_t size, bool esn) {
  *window = (struct replay_window){.esn = esn};
  if (size > REPLAY_WINDOW_MAX) return false;
  if (size == 0) return true;
  uint32_t rounded = MINIMUM_SIZE;
  while (rounded < size)
    rounded *= 2;
  window->size = rounded;
  window->bitmap = calloc(ring_words(window), sizeof *window->bitmap);
  return window->bitmap != NULL;
}

void replay_free(struct replay_window *window) {
  free(window->bitmap);
  *window = (struct replay_window){0};
}

void replay_resume(struct replay_window *window, uint64_t top) {
  window->top = top;
  if (window->size == 0) return;
  memset(window->bitmap, 0xff, ring_words(window) * sizeof *window->bitmap);
  /* In the word of the top, what is above it is still to come; the words after it are cleared as the top gets there. */
  uint64_t seen = top % WORD_BITS;
  window->bitmap[top / WORD_BITS & (ring_words(window) - 1)] = UINT64_MAX >> (WORD_BITS - 1 - seen);
}

/* RFC 4303 Appendix A2.1. W is the window's size; without a window, the half range. */
uint64_t replay_infer(const struct replay_window *window, uint32_t low) {
  if (!window->esn) return low;
  uint64_t top_high = window->top >> 32;
  uint32_t top_low = (uint32_t)window->top;
  uint32_t size = window->size ? window->size : UINT32_C(1) << 31;
  uint32_t bottom = top_low - size + 1; /* modulo 2^32, as A2.1 has it */
  uint64_t high = top_high;
  if (top_low >= size - 1) {
    /* Case A: the window lies in one subspace. */
    if (low < bottom) high = top_high + 1;
  } else if (low >= bottom) {
    /* Case B: it spans two. Before the first subspace there is none, so there it can only be far ahead. */
    if (top_high > 0) high = top_high - 1;
  }
  return high << 32 | low;
}

static bool marked(const struct replay_window *window, uint64_t sequence) {
  uint64_t word = sequence / WORD_BITS & (ring_words(window) - 1);
  return window->bitmap[word] >> (sequence % WORD_BITS) & 1;
}

/* RFC 4303 3.4.3 */
bool replay_check(const struct replay_window *window, uint64_t sequence) {
  if (sequence == 0 || (!window->esn && sequence > UINT32_MAX)) return false;
  if (window->size == 0 || sequence > window->top) return true;
  if (window->top - sequence >= window->size) return false;
  return !marked(window, sequence);
}

static void advance(struct replay_window *window, uint64_t sequence) {
  uint64_t mask = ring_words(window) - 1;
  uint64_t old_word = window->top / WORD_BITS, new_word = sequence / WORD_BITS;
  uint64_t steps = new_word - old_word;
  if (steps > mask + 1) steps = mask + 1; /* a jump past the whole ring clears it once */
  for (uint64_t i = 1; i <= steps; i++)
    window->bitmap[(old_word + i) & mask] = 0;
  window->top = sequence;
}

bool replay_accept(struct replay_window *window, uint64_t sequence) {
  if (!replay_check(window, sequence)) return false;
  if (window->size == 0) {
    if (sequence > window->top) window->top = sequence;
    return true;
  }
  if (sequence > window->top) advance(window, sequence);
  window->bitmap[sequence / WORD_BITS & (ring_words(window) - 1)] |= UINT64_C(1) << (sequence % WORD_BITS);
  return true;
}
