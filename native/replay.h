/* Anti-replay window (RFC 4303 3.4.3, Appendix A2 for ESN; RFC 6479 style bitmap). Not locked: the caller locks. */
#ifndef GATEWAY_REPLAY_H
#define GATEWAY_REPLAY_H

#include <stdbool.h>
#include <stdint.h>

#define REPLAY_WINDOW_MAX 65536

struct replay_window {
  uint64_t top;  /* highest sequence number authenticated; 0 none yet */
  uint32_t size; /* in packets, power of two >= 64; 0 switches replay protection off but ESN inference goes on */
  bool esn;
  uint64_t *bitmap; /* size + 64 bits or more */
};

bool replay_init(struct replay_window *window, uint32_t size, bool esn); /* rounds size up to a power of two */
void replay_free(struct replay_window *window);
/* Of a window just initialised: all numbers up to `top` were seen, elsewhere, before this process. */
void replay_resume(struct replay_window *window, uint64_t top);

/* The full sequence number of a received low half: Appendix A2.1 with ESN, the value itself without. */
uint64_t replay_infer(const struct replay_window *window, uint32_t low);
/* Would this number be accepted? Changes nothing. Number 0 never is. */
bool replay_check(const struct replay_window *window, uint64_t sequence);
/* After the ICV verified: checks again (another worker may have been first) and marks. False when it is a replay. */
bool replay_accept(struct replay_window *window, uint64_t sequence);

#endif
