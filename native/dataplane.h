/* The data plane behind gateway._native, without Python: workers, SAD, SPD, sockets and TUN queues.
 *
 *        control thread (module.c)                    worker threads (one per core, run to completion)
 *   add_sa, replace_policies, grant ...          TUN queue -> outbound.c -> seal -> udp.c -> UDP socket
 *        publish immutable tables                UDP socket -> udp.c -> inbound.c -> open -> TUN queue
 *        quiesce, free the old ones  <--- turn --- epoll
 *        events, punts drained       <-- eventfd - events.c
 *
 * Rules of this house. Workers read the tables through atomic pointers and never lock them; the control thread
 * publishes a new table, waits until every worker has passed a quiescent point, and only then frees the old one, so
 * every control call has taken effect for all workers when it returns. An SA's mutable half has a lock of its own, held
 * per burst, never across a system call or a cipher call.
 */
#ifndef GATEWAY_DATAPLANE_H
#define GATEWAY_DATAPLANE_H

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "drop_reasons.h"
#include "esp.h"
#include "index.h"
#include "inner.h"
#include "replay.h"

#define CACHE_LINE  64
#define WORKERS_MAX 64
#define ANY_WORKER  (-1)

struct connection;
struct dataplane;
struct egress;
struct inbound;
struct outbound;
struct outer;
struct policy;
struct sa;
struct source;
struct spi_table;
struct worker;

/* What went wrong in a control call. `sentence` NULL: nothing. `os_error` != 0: the system's errno. */
struct fault {
  const char *sentence;
  int os_error;
};
#define NO_FAULT ((struct fault){NULL, 0})

/* An outer address. IPv4 stands in the first 4 octets, the rest zero (a mapped IPv4 address is stored as IPv4), so that
 * two are compared by memcmp; there is no padding. */
struct endpoint {
  uint8_t address[16];
  uint32_t scope;
  uint16_t port;
  uint16_t family; /* AF_INET, AF_INET6 or 0: none */
};

/* RFC 4301 4.4.1.1: one traffic selector pair, seen from this gateway. */
struct selector {
  struct address local_first, local_last, remote_first, remote_last;
  uint16_t local_port_first, local_port_last, remote_port_first, remote_port_last;
  uint8_t protocol;
  bool ipv6;
};

struct limits {
  uint64_t soft_octets, hard_octets, soft_packets, hard_packets;
};

struct spinlock {
  atomic_bool held;
};

/* ---- worker.c: threads, quiescence, statistics ---- */

/* What cycles are counted by, in the order a packet meets them: label, help. */
#define FOREACH_STAGE(_)                                                                                               \
  _(READ, "read", "outbound: read from the TUN")                                                                       \
  _(SEGMENT, "segment", "outbound: selectors, SA, segments written to their places")                                   \
  _(SEAL, "seal", "outbound: sequence numbers, cipher")                                                                \
  _(SEND, "send", "outbound: sent to the socket")                                                                      \
  _(RECEIVE, "receive", "inbound: received from the socket")                                                           \
  _(OPEN, "open", "inbound: SPI, replay window, cipher")                                                               \
  _(DELIVER, "deliver", "inbound: selectors, coalescing")                                                              \
  _(WRITE, "write", "inbound: written to the TUN")

enum stage {
#define STAGE_ENUM(name, label, help) STAGE_##name,
  FOREACH_STAGE(STAGE_ENUM)
#undef STAGE_ENUM
      STAGE_COUNT
};

/* Bursts by their size: up to 1, 2, 4, ... 128 packets, which is the most either direction gathers. A burst is what one
 * cipher call took; its packets are those that the SAs count. */
#define BURST_BUCKETS 8

struct burst_counters {
  _Atomic uint64_t packets, sizes[BURST_BUCKETS];
};

struct worker_counters {
  _Atomic uint64_t ticks, empty_polls, tun_reads, tun_writes, udp_reads, udp_sends, packet_sends;
  _Atomic uint64_t packets_full, packets_refused; /* by a packet socket: the raw socket got them then */
  struct burst_counters out, in;
  _Atomic uint64_t cycles[STAGE_COUNT];
};

/* How the workers run. Zero: free to move, asleep when there is nothing to do, no cycles counted. */
struct placement {
  unsigned cpu_count; /* 0: not pinned; else one for each worker */
  unsigned cpus[WORKERS_MAX];
  uint32_t busy_poll_us; /* after work a worker looks for more this long before it sleeps */
  bool count_cycles;
};
#define BUSY_POLL_US_MAX 10000

/* A worker owns its epoll instance and its buffers. `turn` is even while it sleeps in epoll_wait and odd while it
 * works. */
struct worker {
  alignas(CACHE_LINE) _Atomic uint64_t turn;
  struct worker_counters counters;
  _Atomic uint64_t drops[DROP_REASON_COUNT]; /* of no known connection */
  struct dataplane *plane;
  unsigned index;
  int epoll, wake;
  bool count_cycles;
  uint64_t poll_again_ns;       /* no busy polling before */
  uint64_t cycles_seen;         /* when the last stage ended */
  atomic_int packet_socket;     /* protocol 50 past the IP layer (packet.c); -1: none */
  uint32_t packet_ids;          /* IPv4 identifications given there */
  uint64_t socket_drops_before; /* of sockets that were removed; under plane->control */
  uint64_t cpu_ns;              /* all it used; written by itself at its end */
  pthread_t thread;
  struct esp_thread *esp;
  struct outbound *outbound;
  struct inbound *inbound;
};

enum source_kind { SOURCE_TUN, SOURCE_UDP, SOURCE_RAW };

/* One fd a worker polls. */
struct source {
  enum source_kind kind;
  int fd;
  struct worker *worker;         /* NULL: not polled by any (a TUN queue beyond the workers) */
  struct connection *connection; /* TUN queues */
  struct endpoint local;         /* sockets: where it is bound; family 0 address when wildcard */
  bool wildcard;
  struct source *next; /* the control thread's list of sockets */
};

struct dataplane {
  enum esp_engine engine;
  unsigned worker_count;
  struct worker *workers;
  uint64_t busy_poll_ns;
  atomic_bool stopping;
  int event_fd;

  _Atomic(struct spi_table *) inbound_sas;
  _Atomic uint32_t gso_segments; /* most segments of one UDP_SEGMENT send this kernel takes */
  _Atomic uint64_t unknown_spi_second;
  _Atomic uint64_t fence_ns; /* CLOCK_BOOTTIME from which SAs of the pair send nothing */

  /* The control thread's own. */
  pthread_mutex_t control;
  bool halted;
  uint8_t *shared;
  size_t shared_octets;
  bool stopped;
  struct sa *sas; /* those of one connection stand together */
  struct connection *connections;
  struct index outbound_sas, connections_by_id;
  struct source *sockets;

  struct event_ring *events;
  struct punt_ring *punts;
};

struct burst_statistics {
  uint64_t packets, sizes[BURST_BUCKETS];
};

struct worker_statistics {
  uint64_t ticks, empty_polls, tun_reads, tun_writes, udp_reads, udp_sends, packet_sends, packets_full, packets_refused;
  uint64_t cpu_ns;
  struct burst_statistics out, in;
  uint64_t cycles[STAGE_COUNT];
  /* Of its sockets: what waits to be received, and datagrams the kernel dropped because too much waited. */
  uint64_t socket_queue_octets, socket_drops;
  bool idle;
};

struct fault dataplane_start(unsigned workers, enum esp_engine engine, struct dataplane **plane);
struct fault dataplane_start_placed(unsigned workers, enum esp_engine engine, const struct placement *placement,
                                    struct dataplane **plane);
/* Joins the workers and wipes every key. The rings stay readable until dataplane_free. Idempotent. */
/* Memory that outlives the process: a place of SHARED_PLACE octets for each SA that wants one, the first 8 of which
 * hold how far it is, written before a packet leaves, or is passed on. Once, before any SA. */
#define SHARED_PLACE 64
struct fault dataplane_share(struct dataplane *plane, int fd);
/* Joins the workers; SAs and all counters stay until dataplane_stop. */
void dataplane_halt(struct dataplane *plane);
void dataplane_stop(struct dataplane *plane);
void dataplane_free(struct dataplane *plane);
struct fault dataplane_worker_statistics(struct dataplane *plane,
                                         struct worker_statistics *out); /* room for every worker */

/* Waits until no worker can still see what was unpublished before the call. */
void workers_quiesce(struct dataplane *plane);
/* The same, and no worker holds an epoll event of a source that was deregistered before the call. */
void workers_quiesce_sources(struct dataplane *plane);
struct fault worker_poll(struct worker *worker, struct source *source);
void worker_unpoll(struct source *source);

void drop_count(struct worker *worker, struct connection *connection, enum drop_reason reason, uint64_t packets);

/* Every control operation below takes plane->control by itself. Fails when the plane is stopped. */
struct fault control_enter(struct dataplane *plane);
void control_leave(struct dataplane *plane);

struct drop_row {
  uint32_t connection;
  enum drop_reason reason;
  uint64_t packets;
};
/* A malloc'ed array of what is not zero. */
struct fault dataplane_drops(struct dataplane *plane, struct drop_row **rows, size_t *count);

/* ---- connections and TUN queues: tun.c ---- */

/* What one worker counts for one connection; a cache line of its own. */
struct lane {
  alignas(CACHE_LINE) _Atomic uint64_t drops[DROP_REASON_COUNT];
  uint64_t icmp_second;
  uint32_t icmp_sent;
};

#define OUTER_DS_FIXED 0x100

/* What is done to packets on their way into the tunnel. */
struct passage {
  uint32_t mtu; /* of inner packets */
  uint16_t mss4, mss6;
  int dscp;      /* of every outer packet; less than 0: the inner one's */
  bool clear_df; /* IPv4 beyond the MTU is fragmented, whatever its DF bit says */
};

struct connection {
  uint32_t id;
  _Atomic uint32_t mtu;
  _Atomic uint16_t mss4, mss6;
  _Atomic uint16_t outer_ds; /* OUTER_DS_FIXED and the DS field; 0: the inner one's */
  atomic_bool clear_df;
  bool merge_udp; /* the TUN accepts USO */
  _Atomic(struct policy *) policy;
  _Atomic(struct egress *) egress; /* NULL: protocol 50 goes by the raw socket */
  _Atomic uint64_t acquire_second;
  struct lane *lanes;
  struct source *queues;
  size_t queue_count;

  /* The control thread's own. */
  struct connection *next, *previous;
  struct sa *sas; /* the first of its SAs in plane->sas */
};

struct fault connection_add(struct dataplane *plane, uint32_t id, const int *fds, size_t count, uint32_t mtu);
struct fault connection_update(struct dataplane *plane, uint32_t id, const struct passage *passage);
/* Its queue fds were attached to a new device by their owner: they are prepared and polled again. SAs are not touched.
 */
struct fault connection_reopen(struct dataplane *plane, uint32_t id);
struct fault connection_remove(struct dataplane *plane, uint32_t id);
struct connection *connection_find(struct dataplane *plane, uint32_t id);
void connection_free(struct connection *connection);

/* ---- SAs: sad.c ---- */

struct sa {
  bool inbound, encapsulate, esn;
  bool fenced; /* outbound: another gateway has it too, and only the active one sends */
  uint32_t spi;
  struct connection *connection;
  struct esp_key *key;
  struct esp_shape shape; /* the key's */
  size_t selector_count;
  struct selector *selectors;
  struct limits limits;
  struct endpoint local;
  int worker;                    /* outbound, RFC 9611: for what this worker sends; ANY_WORKER: for all */
  _Atomic(struct outer *) outer; /* outbound */
  atomic_int socket;             /* outbound; -1 once removed */

  /* The control thread's own. */
  struct sa *next, *previous;
  uint64_t reported; /* how much it had done when sa_changes last told of it */

  /* Under `lock`. Packets and octets move in bursts, beside the sequence number that every worker has to share anyway.
   */
  alignas(CACHE_LINE) struct spinlock lock;
  bool soft_raised, hard_raised; /* told; not where the ring of events was full: then again with a later packet */
  bool hard_reached;
  uint64_t sequence;       /* outbound: last one used */
  _Atomic uint64_t *place; /* shared with the next process: the sequence number, or the window's top; NULL: none */
  uint64_t sequence_limit; /* outbound: granted */
  struct replay_window window;
  uint64_t packets, octets;
  uint64_t replay_drops, integrity_failures, selector_drops;
  uint64_t last_used_ns;
  uint64_t integrity_second, moved_second;
  struct endpoint peer; /* inbound: where the highest authenticated packet came from */
};

struct sa_request {
  bool inbound, encapsulate, fenced;
  uint32_t connection, spi;
  struct esp_suite suite;
  const uint8_t *encryption_key, *integrity_key;
  size_t encryption_key_length, integrity_key_length;
  struct endpoint local, remote;
  const struct selector *selectors;
  size_t selector_count;
  uint32_t replay_window;
  struct limits limits;
  int socket;
  int worker;        /* outbound: ANY_WORKER or the one it is for */
  uint64_t sequence; /* used up by a process before this one: never sent again, or taken as seen */
  int64_t place;     /* in the shared memory where it writes how far it is; 0: none */
};

struct sa_statistics {
  bool inbound;
  uint32_t connection, spi;
  uint64_t packets, octets, sequence, last_used_ns, replay_drops, integrity_failures, selector_drops;
};

struct fault sa_add(struct dataplane *plane, const struct sa_request *request);
struct fault sa_remove(struct dataplane *plane, bool inbound, uint32_t connection, uint32_t spi);
/* The same; `last` is what it did in all, with SPI 0 when there was none. */
struct fault sa_retire(struct dataplane *plane, bool inbound, uint32_t connection, uint32_t spi,
                       struct sa_statistics *last);
/* The peer's end of an outbound SA is elsewhere; with `local` ours is, too, and that socket is bound to it. */
struct fault sa_move(struct dataplane *plane, uint32_t connection, uint32_t spi, const struct endpoint *remote,
                     const struct endpoint *local, int socket);
/* Until when (CLOCK_BOOTTIME) fenced SAs may send. Workers look at it before each burst is numbered, before it is sent
 * and after each wait for a socket: after a stand-still of the whole process they go on before anybody could tell them.
 * Moved back, no worker sends by the old one any more when it returns. */
void fence_move(struct dataplane *plane, uint64_t until_ns);
/* What is sent stays at or below `limit`. A fenced SA has none before the first. */
struct fault sa_grant(struct dataplane *plane, uint32_t connection, uint32_t spi, uint64_t limit);
/* So many sequence numbers are never used; at most all that are left. */
struct fault sa_advance(struct dataplane *plane, uint32_t connection, uint32_t spi, uint64_t by);
/* Of every SA; of those that did something since the last sa_changes. Malloc'ed arrays. */
struct fault sa_statistics(struct dataplane *plane, struct sa_statistics **rows, size_t *count);
struct fault sa_changes(struct dataplane *plane, struct sa_statistics **rows, size_t *count);
struct sa *sa_find(struct dataplane *plane, bool inbound, uint32_t connection, uint32_t spi);
/* Takes the connection's SAs out of every table; the chain is freed by sas_free after quiescence. */
struct sa *sas_unlink(struct dataplane *plane, struct connection *connection);
void sas_free(struct sa *chain);

/* Workers. */
struct sa *sa_lookup(struct dataplane *plane, uint32_t spi);
/* Gives sequence numbers to the first items of a burst, whose payloads are `octets` long, and accounts for them.
 * Returns how many; `reason` says why not more. RFC 4303 3.3.3: a number is used once and never wraps. */
size_t sa_take(struct dataplane *plane, struct sa *sa, struct esp_seal_item *items, size_t count, uint64_t octets,
               enum drop_reason *reason);

/* Whether the fence lets it send now; costs a look at the clock for fenced SAs only. */
static inline bool sa_may_send(const struct dataplane *plane, const struct sa *sa);
static inline void spin_lock(struct spinlock *lock);
static inline void spin_unlock(struct spinlock *lock);
/* Accounts for one packet, or refuses it at a hard limit; under the SA's lock. The caller passes `news` on to
 * sa_raise after unlocking. */
struct sa_news {
  bool soft, hard;
};
bool sa_account(struct sa *sa, uint64_t octets, struct sa_news *news);
/* A packet was refused because the SA has stopped; under its lock. Says so where nobody heard of it yet. */
void sa_stopped(struct sa *sa, struct sa_news *news);
/* How far it is, for the next process; under the SA's lock. */
void sa_mark(struct sa *sa, uint64_t sequence);
/* The same for many packets at once; false, and nothing is done, where one of them would come near a limit. Outbound
 * packets are accounted for before they are numbered, inbound ones after the window took them. */
bool sa_account_burst(struct sa *sa, uint64_t packets, uint64_t octets);
/* Takes the SA's lock by itself: what found no room among the events counts as not told. */
void sa_raise(struct dataplane *plane, struct sa *sa, struct sa_news news);

/* ---- SPD: spd.c ---- */

/* The outbound SAs of a connection in order of preference, once for each worker: its own first, then those for all,
 * then the others' (RFC 9611 2: what has no SA of its own uses the fallback SA). Immutable. */
struct policy {
  size_t count;
  struct sa *sas[]; /* `count` for worker 0, `count` for worker 1, ... */
};

bool sa_carries(const struct sa *sa, const struct inner *inner);
struct sa *policy_match(const struct policy *policy, unsigned worker, const struct inner *inner);
struct fault policies_replace(struct dataplane *plane, uint32_t connection, const uint32_t *spis, size_t count);
/* A copy without `sa`; NULL when memory ran out. */
struct policy *policy_without(const struct dataplane *plane, const struct policy *policy, const struct sa *sa);

/* ---- events.c: what the workers tell the control plane ---- */

enum event_kind {
  EVENT_ACQUIRE,
  EVENT_EXPIRE_SOFT,
  EVENT_EXPIRE_HARD,
  EVENT_INTEGRITY_BURST,
  EVENT_PEER_MOVED,
  EVENT_UNKNOWN_SPI
};
#define EVENT_DETAIL_MAX 64
#define EVENTS_MAX       1024
/* Acquires, unknown SPIs and failed ICVs, which strangers cause, fit while fewer wait. */
#define EVENTS_OF_STRANGERS_MAX (EVENTS_MAX / 2)

struct event {
  enum event_kind kind;
  uint32_t connection, spi;
  size_t length;
  uint8_t detail[EVENT_DETAIL_MAX];
};

struct punt {
  struct punt *next;
  struct endpoint local, remote;
  int socket;
  size_t length;
  uint8_t data[];
};

bool events_init(struct dataplane *plane);
void events_free(struct dataplane *plane);
/* False: there is no room, and nobody will hear of it. */
bool event_raise(struct dataplane *plane, enum event_kind kind, uint32_t connection, uint32_t spi, const void *detail,
                 size_t length);
/* The same with "host port" of an end point as detail. */
bool event_raise_at(struct dataplane *plane, enum event_kind kind, uint32_t connection, uint32_t spi,
                    const struct endpoint *where);
/* True at most once per second for one `mark`. */
bool once_per_second(_Atomic uint64_t *mark);
bool punt_push(struct dataplane *plane, const uint8_t *data, size_t length, const struct endpoint *local,
               const struct endpoint *remote, int socket);
/* Drain: how many were copied to `out`; the whole chain, oldest first. */
size_t events_drain(struct dataplane *plane, struct event *out, size_t max);
struct punt *punts_drain(struct dataplane *plane);
const char *event_name(enum event_kind kind);

/* ---- inline ---- */

#include <sched.h>

static inline void spin_lock(struct spinlock *lock) {
  unsigned spins = 0;
  while (atomic_exchange_explicit(&lock->held, true, memory_order_acquire)) {
    /* The holder may have been preempted on this very core. */
    while (atomic_load_explicit(&lock->held, memory_order_relaxed))
      if (++spins > 64) sched_yield();
  }
}

static inline void spin_unlock(struct spinlock *lock) {
  atomic_store_explicit(&lock->held, false, memory_order_release);
}

/* A counter with one writer: no locked instruction needed. */
static inline void counter_add(_Atomic uint64_t *counter, uint64_t amount) {
  atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + amount, memory_order_relaxed);
}

/* One instruction for the index: sizes 1, 2, 3..4, 5..8, ... */
static inline void burst_count(struct burst_counters *counters, size_t packets) {
  unsigned bucket = packets < 2 ? 0 : 64u - (unsigned)__builtin_clzll((unsigned long long)packets - 1);
  counter_add(&counters->packets, packets);
  counter_add(&counters->sizes[bucket < BURST_BUCKETS ? bucket : BURST_BUCKETS - 1], 1);
}

/* The CPU's time stamp counter, where there is one to read. */
static inline uint64_t cycles_now(void) {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
  uint64_t ticks;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
  return ticks;
#else
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

/* A turn begins: what passed before belongs to no stage. Off, each of the two costs one branch. */
static inline void stages_begin(struct worker *worker) {
  if (worker->count_cycles) worker->cycles_seen = cycles_now();
}

/* All that passed since the last stage ended was this one. */
static inline void stage_ended(struct worker *worker, enum stage stage) {
  if (!worker->count_cycles) return;
  uint64_t now = cycles_now();
  counter_add(&worker->counters.cycles[stage], now - worker->cycles_seen);
  worker->cycles_seen = now;
}

static inline uint64_t boottime_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline bool sa_may_send(const struct dataplane *plane, const struct sa *sa) {
  return !sa->fenced || boottime_ns() < atomic_load_explicit(&plane->fence_ns, memory_order_relaxed);
}

static inline uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
