/* What the files of the probe thread share: its tables, under one lock (probe.h). */
#ifndef GATEWAY_PROBE_TABLES_H
#define GATEWAY_PROBE_TABLES_H

#include <sys/socket.h>
#include <unistd.h>

#include "probe.h"

#define NEVER     UINT64_MAX
#define SECOND_NS 1000000000u
#define BATCH     32

/* Of one socket before others have their turn; of one socket before silence counts. */
#define TURN_BATCHES  8
#define DRAIN_BATCHES 512

#define CONTROL_OCTETS 128
#define SLOT_OCTETS    768 /* longer datagrams are cut: nothing that long is expected */

struct probe {
  struct probe_path path;
  struct sockaddr_storage name;
  socklen_t name_length;
  struct probe_program program;
  uint64_t send_at, detect_at, due;
  uint64_t sent_at, told_second;
  uint32_t told_in_second;
  bool doubted;                 /* the silence, because we were late ourselves; once until the next sign of life */
  size_t place;                 /* in the heap */
  struct probe *next_of_remote; /* of those that share a hash */
  struct probe_statistics statistics;
  struct beat *beat; /* NULL: not a heartbeat */
};

struct listener {
  struct listener *next;
  int fd;
  enum probe_kind kind;
};

struct slots {
  struct mmsghdr messages[BATCH];
  struct iovec iov[BATCH];
  struct sockaddr_storage names[BATCH];
  alignas(struct cmsghdr) uint8_t control[BATCH][CONTROL_OCTETS];
  uint8_t data[BATCH][SLOT_OCTETS];
};

struct probes {
  pthread_mutex_t lock;
  pthread_t thread;
  bool running;
  atomic_bool stopping;
  int epoll, wake, timer, event_fd;
  uint64_t random;
  struct index by_id, by_key, by_remote;
  struct probe **heap;
  size_t count, room;
  struct listener *listeners;
  struct probe_news *news, **news_end;
  size_t news_count;
  uint64_t refused[PROBE_REFUSAL_COUNT];
  struct probe strangers; /* whose heartbeats nobody vouches for; in no table */
  struct slots slots;
};

/* probe_receive.c: reads at most so many batches, and does what they cause. */
void probe_drain(struct probes *probes, const struct listener *listener, unsigned batches);
uint64_t probe_remote_hash(enum probe_kind kind, const struct endpoint *remote);
uint64_t probe_key(enum probe_kind kind, uint32_t key);
/* News for the control thread; false when there is no room. */
bool probe_tell(struct probes *probes, const struct probe *probe, bool expired, uint64_t now, const uint8_t *octets,
                size_t length);

/* probe_beat.c. A beat owns its cipher contexts; NULL: out of memory. */
struct beat *beat_new(void);
void beat_free(struct beat *beat);
/* The program from now on; false, and all as before: no memory. */
bool beat_arm(struct beat *beat, const struct beat_program *program);
void beat_rest(struct beat *beat);
int beat_socket(const struct beat *beat); /* -1: it rests */
/* Whether somebody armed it so recently that it may speak for him. */
bool beat_vouched(const struct beat *beat);
/* The regular one, or (`body`) another; the length of what is to be sent, 0: it cannot be sealed. */
size_t beat_seal(struct beat *beat, const uint8_t *body, size_t length, uint8_t out[BEAT_OCTETS_MAX]);
/* Whether it is authentic, of the peer that is followed, and newer than what is echoed; it is what is echoed then. */
bool beat_hear(struct beat *beat, const uint8_t *data, size_t length, uint64_t now);

/* The clock of the pair: it goes on while the machine is suspended. */
static inline uint64_t beat_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

/* CLOCK_MONOTONIC, not the coarse one of the workers. */
static inline uint64_t probe_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

static inline void probe_kick(int fd) {
  uint64_t one = 1;
  /* EAGAIN: the counter is at its maximum, the fd is readable anyway. */
  if (write(fd, &one, sizeof one) < 0) return;
}

#endif
