/* Liveness probes: one thread that sends what it was told to send again and again, compares what arrives with what it
 * was told to expect, and measures silence. It knows no protocol beyond where a packet says whose it is.
 *
 *        control thread (probe_py.c)                    the probe thread
 *   add, arm, send, remove: tables under one lock     timers -> send
 *                                                     sockets -> whose? -> expected: alive, else told
 *        news drained          <----- eventfd -----   told packets and expired probes, in order
 *
 * So a session costs Python nothing as long as nothing happens, and does not fail because Python has no time.
 *
 * The heartbeats of a pair of gateways (gateway/ha/sealed.py, message.py) are sent by the same thread, sealed anew each
 * time, and what they echo is brought up to date by what it opened itself (probe_beat.c). All that arrives is told,
 * with its time: what it means is the core's.
 */
#ifndef GATEWAY_PROBE_H
#define GATEWAY_PROBE_H

#include "dataplane.h"

#define PROBE_OCTETS_MAX 128

/* gateway/ha/sealed.py */
#define BEAT_PREFIX      28 /* of the header, before the sequence */
#define BEAT_BOOT_OCTETS 16
#define BEAT_KEY_OCTETS  36 /* of AES-256-GCM: key and salt */
#define BEAT_KEYS_MAX    4
#define BEAT_OCTETS_MAX  512
#define BEAT_BODY_MAX    (BEAT_OCTETS_MAX - BEAT_PREFIX - 8 - 16)
#define BEAT_BODY_LEAST  84 /* gateway/ha/message.py: what the thread writes and reads */
#define BEAT_PATHS       256

/* Name, where the four octets are by which a session is told from another, the least length, whether an IPv4 header
 * comes first (raw sockets). */
#define FOREACH_PROBE_KIND(_)                                                                                          \
  _(BFD, "bfd", 8, 24, false)                   /* RFC 5881: Your Discriminator */                                     \
  _(BFD_MULTIHOP, "bfd-multihop", 8, 24, false) /* RFC 5883 */                                                         \
  _(ECHO4, "echo4", 4, 8, true)                 /* RFC 792: identifier and sequence number */                          \
  _(ECHO6, "echo6", 4, 8, false)                /* RFC 4443 4.2 */                                                     \
  _(HEARTBEAT, "heartbeat", 0, 0, false)        /* whose it is says its sixth octet, and its tag */

enum probe_kind {
#define PROBE_KIND_ENUM(name, label, key_at, least, header) PROBE_##name,
  FOREACH_PROBE_KIND(PROBE_KIND_ENUM)
#undef PROBE_KIND_ENUM
      PROBE_KIND_COUNT
};

/* Why something that arrived was nobody's: label. */
#define FOREACH_PROBE_REFUSAL(_)                                                                                       \
  _(SHORT, "short")                                                                                                    \
  _(UNKNOWN, "unknown")     /* no session with this discriminator, or with these addresses */                          \
  _(ADDRESS, "address")     /* from another address, to another one, or by another interface than the session's */     \
  _(HOPS, "hops")           /* RFC 5881 5: a router forwarded it */                                                    \
  _(SUPPRESSED, "too-many") /* more of one session's than are told in a second */

enum probe_refusal {
#define PROBE_REFUSAL_ENUM(name, label) PROBE_REFUSED_##name,
  FOREACH_PROBE_REFUSAL(PROBE_REFUSAL_ENUM)
#undef PROBE_REFUSAL_ENUM
      PROBE_REFUSAL_COUNT
};

struct probes;

/* Between whom. `socket` sends and stays its owner's; it is not touched after probe_remove. */
struct probe_path {
  uint32_t id, key;
  enum probe_kind kind;
  int socket;
  struct endpoint local, remote; /* local: family 0 for any */
  uint32_t interface;            /* 0: any */
  uint32_t least_hops;           /* 0: any TTL */
};

/* What is sent and what counts as a sign of life. Lengths of 0: nothing is sent by itself; everything is told. */
struct probe_program {
  uint32_t generation;
  size_t length, expected_length;
  uint8_t octets[PROBE_OCTETS_MAX], expected[PROBE_OCTETS_MAX], alive[PROBE_OCTETS_MAX];
  uint64_t shortest_ns, longest_ns; /* between two packets */
  uint64_t detection_ns;            /* 0: for ever */
  bool at_once;
};

/* The heartbeats of one path. `body` as the core has it: clock, hold time and sequence are written for each one, and
 * the echo is that of the newest datagram of `peer`, whoever of the two heard it. Wiped by its owner. */
struct beat_program {
  int socket; /* sends and stays its owner's; not touched after probe_beat_rest */
  struct endpoint remote;
  uint8_t prefix[BEAT_PREFIX];
  uint8_t seal[BEAT_KEY_OCTETS];
  uint8_t body[BEAT_BODY_MAX];
  size_t length;
  uint8_t peer[BEAT_BOOT_OCTETS];               /* whose datagrams are echoed */
  uint8_t open[BEAT_KEYS_MAX][BEAT_KEY_OCTETS]; /* the keys it may seal with */
  size_t open_count;                            /* 0: nobody is followed */
  uint64_t echoed_ns;                           /* CLOCK_BOOTTIME: when the datagram arrived that `body` echoes */
  uint64_t shortest_ns, longest_ns;             /* between two */
  uint64_t hold_ns;                             /* nothing is sent this long after it was armed last: nobody is there */
  bool at_once;
};

struct probe_statistics {
  uint32_t id;
  uint64_t sent, send_failed, received, told, heard_ns;
};

/* A packet that was not as expected, or (`expired`) the end of the detection time; of CLOCK_MONOTONIC. On a heartbeat's
 * socket everything that arrived, of CLOCK_BOOTTIME; the id says nothing there. */
struct probe_news {
  struct probe_news *next;
  bool expired;
  uint32_t id, generation;
  uint64_t at_ns;
  size_t length;
  uint8_t octets[];
};

struct fault probes_start(struct probes **out);
/* Joins the thread; the news stay readable until probes_free. Idempotent. */
void probes_stop(struct probes *probes);
void probes_free(struct probes *probes);
int probes_event_fd(const struct probes *probes);

/* A bound socket that receives packets of this kind. It stays its owner's and is not read after probe_unlisten. */
struct fault probe_listen(struct probes *probes, int fd, enum probe_kind kind);
struct fault probe_unlisten(struct probes *probes, int fd);

struct fault probe_add(struct probes *probes, const struct probe_path *path);
struct fault probe_arm(struct probes *probes, uint32_t id, const struct probe_program *program);
struct fault probe_send(struct probes *probes, uint32_t id, const uint8_t *octets, size_t length);
/* Unknown ones are ignored. */
struct fault probe_remove(struct probes *probes, uint32_t id);

/* The number of a path is that of its probe. The sequence goes on as long as the thread lives, whatever is armed: no
 * nonce comes twice under a key. */
struct fault probe_beat(struct probes *probes, uint32_t path, const struct beat_program *program);
/* Another one, now, to where the path leads: `body` is sent as it is but for the clock. */
struct fault probe_beat_once(struct probes *probes, uint32_t path, const uint8_t *body, size_t length);
/* Nothing is sent any more, until it is armed again. Unknown ones are ignored. */
struct fault probe_beat_rest(struct probes *probes, uint32_t path);

/* The whole chain, oldest first; each is to be freed. */
struct probe_news *probes_news(struct probes *probes);
/* A malloc'ed array; refused: PROBE_REFUSAL_COUNT. */
struct fault probes_statistics(struct probes *probes, struct probe_statistics **rows, size_t *count, uint64_t *refused);

#endif
