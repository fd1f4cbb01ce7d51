/* The production path fed from memory: outbound_turn() and inbound_turn() as they are, without a kernel in between.
 *
 * The linker sends the data plane's read, sendmsg, sendmmsg, recvmmsg, writev and ioctl here (--wrap). A thread with a
 * `feed` reads packets from it and its sends end in it; any other thread reaches the kernel as ever. The plane's own
 * worker threads sleep: their fds never become ready, and this program's threads work with their buffers.
 */
#ifndef GATEWAY_BENCHMARKS_MEMORY_PLANE_H
#define GATEWAY_BENCHMARKS_MEMORY_PLANE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane.h"

struct feed {
  /* TUN side. */
  const uint8_t *packet; /* virtio header and inner packet */
  size_t packet_length;
  unsigned readable;      /* how many times it can be read yet */
  uint64_t sent, written; /* ESP packets sent, inner packets written to the TUN */
  /* WAN side: ESP packets of one length, one after the other. */
  uint8_t *store;
  size_t sealed_length, stored, room; /* `room` 0: what is sent is only counted */
  size_t next, step, skip;            /* recvmmsg hands out `step` packets at `next`, then leaves `skip` out */
  uint64_t outside_ns;                /* time spent here while handing out, which is the kernel's and not the path's */
};

extern _Thread_local struct feed *feed;

struct suite_choice {
  const char *name;
  struct esp_suite suite;
  size_t key_length, integrity_length;
};

struct memory_plane {
  struct dataplane *plane;
  unsigned connections, workers;
  size_t header_length, sealed_length; /* of an inner packet of `inner_length` */
  size_t inner_length;
  uint8_t *packet; /* for feeds */
  size_t packet_length;
  struct connection **by_number;
};

/* One connection with an SA in both directions each, the keys equal, so that what goes out can come in. Dies when that
 * cannot be. */
struct memory_plane *memory_plane_new(const struct suite_choice *suite, size_t inner_length, unsigned connections,
                                      unsigned workers);
void memory_plane_free(struct memory_plane *memory);

struct source *memory_queue(const struct memory_plane *memory, unsigned connection, unsigned worker);
struct source *memory_socket(const struct memory_plane *memory, unsigned worker);
void memory_feed(const struct memory_plane *memory, struct feed *out, size_t room);
void memory_feed_free(struct feed *feed);
uint64_t memory_drops(const struct memory_plane *memory);

#endif
