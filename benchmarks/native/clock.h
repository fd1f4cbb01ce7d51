/* What the micro-benchmarks share: the clock, pinning, a small random source, and the line they print. */
#ifndef GATEWAY_BENCHMARKS_CLOCK_H
#define GATEWAY_BENCHMARKS_CLOCK_H

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static inline uint64_t nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Core number `index` of those this process may use; the same one again where there are fewer. */
static inline void pin(unsigned index) {
  cpu_set_t allowed, one;
  CPU_ZERO(&one);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  unsigned wanted = index % (unsigned)CPU_COUNT(&allowed);
  for (int core = 0; core < CPU_SETSIZE; core++)
    if (CPU_ISSET(core, &allowed) && wanted-- == 0) CPU_SET(core, &one);
  pthread_setaffinity_np(pthread_self(), sizeof one, &one);
}

static inline bool coin(uint64_t *state) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return *state >> 63;
}

/* One JSON object a line. */
static inline void say(const char *name, double ours, double peer, const char *unit) {
  printf("{\"name\": \"%s\", \"ours\": %.4f, \"peer\": %.4f, \"unit\": \"%s\"}\n", name, ours, peer, unit);
  fflush(stdout);
}

static inline _Noreturn void die(const char *sentence) {
  fprintf(stderr, "%s\n", sentence);
  exit(1);
}

#endif
