/* The SAD: SAs, sequence numbers, limits, statistics.
 *
 * Ownership: plane->sas owns every SA. Workers reach an inbound SA through the SPI table and an outbound one through
 * its connection's policy; both are unpublished, and the workers have let go, before an SA is freed.
 */
#include <stdlib.h>
#include <string.h>

#include "dataplane.h"
#include "spi_table.h"
#include "udp.h"

#define SEQUENCE_MAX_32 0xffffffffu
/* Without ESN a rekey is due well before the sequence numbers end. */
#define SEQUENCE_SOFT_32 (SEQUENCE_MAX_32 / 10 * 8)

/* RFC 4303 3.3.3: the last number of all. */
static uint64_t sequence_end(bool esn) {
  return esn ? UINT64_MAX : SEQUENCE_MAX_32;
}

static uint64_t outbound_key(uint32_t connection, uint32_t spi) {
  return (uint64_t)connection << 32 | spi;
}

struct sa *sa_find(struct dataplane *plane, bool inbound, uint32_t connection, uint32_t spi) {
  if (!inbound) return index_at(&plane->outbound_sas, outbound_key(connection, spi));
  struct sa *sa = sa_lookup(plane, spi);
  return sa && sa->connection->id == connection ? sa : NULL;
}

/* Into the table where it is found by its SPI. False: out of memory. */
static bool sa_enter(struct dataplane *plane, struct sa *sa) {
  if (sa->inbound) return spi_publish(plane, sa);
  return index_put(&plane->outbound_sas, outbound_key(sa->connection->id, sa->spi), sa);
}

static void sa_leave(struct dataplane *plane, struct sa *sa) {
  if (sa->inbound)
    spi_unpublish(plane, sa);
  else
    index_remove(&plane->outbound_sas, outbound_key(sa->connection->id, sa->spi));
}

/* Before the others of its connection. */
static void sa_link(struct dataplane *plane, struct sa *sa) {
  struct connection *connection = sa->connection;
  sa->next = connection->sas ? connection->sas : plane->sas;
  sa->previous = sa->next ? sa->next->previous : NULL;
  if (sa->next) sa->next->previous = sa;
  if (sa->previous)
    sa->previous->next = sa;
  else
    plane->sas = sa;
  connection->sas = sa;
}

static void sa_unlink(struct dataplane *plane, struct sa *sa) {
  struct connection *connection = sa->connection;
  if (connection->sas == sa) connection->sas = sa->next && sa->next->connection == connection ? sa->next : NULL;
  if (sa->next) sa->next->previous = sa->previous;
  if (sa->previous)
    sa->previous->next = sa->next;
  else
    plane->sas = sa->next;
}

static void sa_free(struct sa *sa) {
  if (!sa) return;
  if (sa->key) esp_key_free(sa->key);
  replay_free(&sa->window);
  free(atomic_load(&sa->outer));
  free(sa->selectors);
  free(sa);
}

void sas_free(struct sa *chain) {
  for (struct sa *next; chain; chain = next) {
    next = chain->next;
    sa_free(chain);
  }
}

static struct fault sa_allowed(struct dataplane *plane, const struct sa_request *r, struct connection *connection) {
  if (!connection) return (struct fault){"unknown connection", 0};
  if (r->spi < 256) return (struct fault){"SPIs 0 to 255 are reserved", 0}; /* RFC 4303 2.1 */
  if (r->replay_window > REPLAY_WINDOW_MAX) return (struct fault){"the replay window is too large", 0};
  if (r->worker != ANY_WORKER && (r->inbound || r->worker < 0 || (unsigned)r->worker >= plane->worker_count))
    return (struct fault){"an outbound SA is for any worker or for one there is", 0};
  if (r->place < 0 || (r->place > 0 && r->place >= (int64_t)(plane->shared_octets / SHARED_PLACE)))
    return (struct fault){"no such place in the shared memory", 0};
  if (r->sequence > sequence_end(r->suite.esn)) return (struct fault){"the sequence number is too large", 0};
  if (r->selector_count == 0) return (struct fault){"an SA needs a selector", 0};
  /* RFC 4303 3.3.1: encryption without integrity is not offered here. */
  if (r->suite.encryption == ESP_AES_CBC && r->suite.integrity == ESP_INTEG_NONE)
    return (struct fault){"aes-cbc needs an integrity algorithm", 0};
  if (r->inbound ? sa_lookup(plane, r->spi) : sa_find(plane, false, connection->id, r->spi))
    return (struct fault){"an SA with this SPI exists", 0};
  return NO_FAULT;
}

static struct fault sa_new(struct dataplane *plane, const struct sa_request *r, struct connection *connection,
                           struct sa **out) {
  struct sa *sa = aligned_alloc(CACHE_LINE, sizeof *sa);
  if (!sa) return (struct fault){"out of memory", 0};
  memset(sa, 0, sizeof *sa);
  struct fault fault = NO_FAULT;
  sa->inbound = r->inbound;
  sa->encapsulate = r->encapsulate;
  sa->esn = r->suite.esn;
  sa->spi = r->spi;
  sa->connection = connection;
  sa->worker = r->worker;
  sa->limits = r->limits;
  sa->local = r->local;
  sa->peer = r->remote;
  sa->fenced = r->fenced;
  sa->sequence_limit = sa->fenced ? r->sequence : sequence_end(sa->esn);
  atomic_init(&sa->socket, r->socket);
  sa->selector_count = r->selector_count;
  sa->selectors = calloc(r->selector_count, sizeof *sa->selectors);
  if (!sa->selectors || !replay_init(&sa->window, r->replay_window, sa->esn)) {
    fault.sentence = "out of memory";
  } else {
    memcpy(sa->selectors, r->selectors, r->selector_count * sizeof *sa->selectors);
    if (r->place > 0) {
      sa->place = (_Atomic uint64_t *)(void *)(plane->shared + r->place * SHARED_PLACE);
      atomic_store(sa->place, r->sequence);
    }
    if (!r->inbound)
      sa->sequence = r->sequence;
    else if (r->sequence != 0)
      replay_resume(&sa->window, r->sequence);
    sa->key = esp_key_new(plane->engine, &r->suite, r->encryption_key, r->encryption_key_length, r->integrity_key,
                          r->integrity_key_length, r->spi, !r->inbound, &fault.sentence);
    if (sa->key) sa->shape = *esp_key_shape(sa->key);
  }
  if (!fault.sentence && !r->inbound) {
    struct outer *outer = NULL;
    fault = outer_new(r->socket, r->encapsulate, &r->local, &r->remote, &outer);
    atomic_init(&sa->outer, outer);
  }
  if (fault.sentence) {
    sa_free(sa);
    sa = NULL;
  }
  *out = sa;
  return fault;
}

struct fault sa_add(struct dataplane *plane, const struct sa_request *request) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct connection *connection = connection_find(plane, request->connection);
  struct sa *sa = NULL;
  fault = sa_allowed(plane, request, connection);
  if (!fault.sentence) fault = sa_new(plane, request, connection, &sa);
  if (sa && sa_enter(plane, sa)) {
    sa_link(plane, sa);
  } else if (sa) {
    sa_free(sa);
    fault.sentence = "out of memory";
  }
  control_leave(plane);
  return fault;
}

/* Out of its connection's policy: after the next quiescence no worker sends on it. */
static struct fault policy_leave(struct dataplane *plane, const struct sa *sa) {
  struct policy *old = atomic_load(&sa->connection->policy);
  if (!old) return NO_FAULT;
  struct policy *policy = policy_without(plane, old, sa);
  if (!policy) return (struct fault){"out of memory", 0};
  atomic_store(&sa->connection->policy, policy);
  workers_quiesce(plane);
  free(old);
  return NO_FAULT;
}

struct sa *sas_unlink(struct dataplane *plane, struct connection *connection) {
  struct sa *removed = NULL;
  for (struct sa *sa; (sa = connection->sas);) {
    sa_leave(plane, sa);
    sa_unlink(plane, sa);
    sa->next = removed;
    removed = sa;
  }
  return removed;
}

struct fault sa_move(struct dataplane *plane, uint32_t connection, uint32_t spi, const struct endpoint *remote,
                     const struct endpoint *local, int socket) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct sa *sa = sa_find(plane, false, connection, spi);
  if (!sa) fault.sentence = "unknown outbound SA";
  struct outer *outer = NULL;
  if (sa) {
    if (!local) socket = atomic_load(&sa->socket);
    fault = outer_new(socket, sa->encapsulate, local ? local : &sa->local, remote, &outer);
  }
  if (outer) {
    if (local) {
      sa->local = *local;
      atomic_store(&sa->socket, socket);
    }
    struct outer *old = atomic_exchange(&sa->outer, outer);
    workers_quiesce(plane);
    free(old);
  }
  control_leave(plane);
  return fault;
}

struct fault sa_grant(struct dataplane *plane, uint32_t connection, uint32_t spi, uint64_t limit) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct sa *sa = sa_find(plane, false, connection, spi);
  if (!sa) {
    fault.sentence = "unknown outbound SA";
  } else {
    spin_lock(&sa->lock);
    uint64_t most = sequence_end(sa->esn);
    sa->sequence_limit = limit > most ? most : limit;
    spin_unlock(&sa->lock);
  }
  control_leave(plane);
  return fault;
}

struct fault sa_advance(struct dataplane *plane, uint32_t connection, uint32_t spi, uint64_t by) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct sa *sa = sa_find(plane, false, connection, spi);
  if (!sa) {
    fault.sentence = "unknown outbound SA";
  } else {
    spin_lock(&sa->lock);
    uint64_t most = sequence_end(sa->esn);
    sa->sequence = by > most - sa->sequence ? most : sa->sequence + by;
    sa_mark(sa, sa->sequence);
    spin_unlock(&sa->lock);
  }
  control_leave(plane);
  return fault;
}

void fence_move(struct dataplane *plane, uint64_t until_ns) {
  uint64_t before = atomic_exchange(&plane->fence_ns, until_ns);
  if (until_ns >= before || control_enter(plane).sentence) return;
  /* A worker may have looked already and be about to send. */
  workers_quiesce(plane);
  control_leave(plane);
}

static bool reached(uint64_t value, uint64_t limit) {
  return limit != 0 && value >= limit;
}

static bool below(uint64_t value, uint64_t limit) {
  return limit == 0 || value < limit;
}

/* The number itself, not how many packets there were: it may have begun high, and it may be advanced. */
static bool numbers_run_out(const struct sa *sa, uint64_t packets) {
  return !sa->esn && (sa->inbound ? sa->window.top : sa->sequence + packets) >= SEQUENCE_SOFT_32;
}

void sa_stopped(struct sa *sa, struct sa_news *news) {
  if (!sa->hard_raised) sa->hard_raised = news->hard = true;
}

bool sa_account_burst(struct sa *sa, uint64_t packets, uint64_t octets) {
  const struct limits *limits = &sa->limits;
  uint64_t all_packets = sa->packets + packets, all_octets = sa->octets + octets;
  bool soft_due = !below(all_packets, limits->soft_packets) || !below(all_octets, limits->soft_octets) ||
                  numbers_run_out(sa, packets);
  if (sa->hard_reached || (soft_due && !sa->soft_raised)) return false;
  if (!below(all_packets, limits->hard_packets) || !below(all_octets, limits->hard_octets)) return false;
  sa->packets = all_packets;
  sa->octets = all_octets;
  return true;
}

bool sa_account(struct sa *sa, uint64_t octets, struct sa_news *news) {
  const struct limits *limits = &sa->limits;
  if (limits->hard_octets != 0 && sa->octets + octets > limits->hard_octets) sa->hard_reached = true;
  if (sa->hard_reached) {
    sa_stopped(sa, news);
    return false;
  }
  sa->packets++;
  sa->octets += octets;
  if (reached(sa->packets, limits->hard_packets) || reached(sa->octets, limits->hard_octets)) {
    sa->hard_reached = true;
    sa_stopped(sa, news);
  }
  if (!sa->soft_raised && (reached(sa->packets, limits->soft_packets) || reached(sa->octets, limits->soft_octets) ||
                           numbers_run_out(sa, 1)))
    sa->soft_raised = news->soft = true;
  return true;
}

static bool raise_expiry(struct dataplane *plane, const struct sa *sa, enum event_kind kind) {
  const char *direction = sa->inbound ? "in" : "out";
  return event_raise(plane, kind, sa->connection->id, sa->spi, direction, strlen(direction));
}

void sa_raise(struct dataplane *plane, struct sa *sa, struct sa_news news) {
  bool soft_lost = news.soft && !raise_expiry(plane, sa, EVENT_EXPIRE_SOFT);
  bool hard_lost = news.hard && !raise_expiry(plane, sa, EVENT_EXPIRE_HARD);
  if (!soft_lost && !hard_lost) return;
  spin_lock(&sa->lock);
  if (soft_lost) sa->soft_raised = false;
  if (hard_lost) sa->hard_raised = false;
  spin_unlock(&sa->lock);
}

static void number(struct esp_seal_item *items, size_t count, uint64_t last) {
  for (size_t i = 0; i < count; i++)
    items[i].sequence = last + 1 + i;
}

void sa_mark(struct sa *sa, uint64_t sequence) {
  if (sa->place) atomic_store_explicit(sa->place, sequence, memory_order_relaxed);
}

/* One by one, up to the limit that is near. */
static size_t take_singly(struct sa *sa, struct esp_seal_item *items, size_t count, struct sa_news *news,
                          enum drop_reason *reason) {
  size_t taken = 0;
  while (taken < count) {
    if (sa->sequence >= sa->sequence_limit) {
      *reason = DROP_SEQUENCE_EXHAUSTED;
      /* At a grant more may be granted; here nothing comes any more but another SA. */
      if (sa->sequence >= sequence_end(sa->esn)) sa_stopped(sa, news);
      break;
    }
    if (!sa_account(sa, items[taken].payload_length, news)) {
      *reason = DROP_HARD_LIMIT;
      break;
    }
    items[taken++].sequence = ++sa->sequence;
  }
  return taken;
}

size_t sa_take(struct dataplane *plane, struct sa *sa, struct esp_seal_item *items, size_t count, uint64_t octets,
               enum drop_reason *reason) {
  struct sa_news news = {false, false};
  uint64_t now = now_ns();
  size_t taken = count;
  if (!sa_may_send(plane, sa)) {
    *reason = DROP_NOT_ACTIVE;
    return 0;
  }
  spin_lock(&sa->lock);
  /* A grant may have been lowered below what was used. */
  bool granted = sa->sequence_limit >= sa->sequence && sa->sequence_limit - sa->sequence >= count;
  uint64_t last = sa->sequence;
  bool block = granted && sa_account_burst(sa, count, octets);
  if (block)
    sa->sequence += count;
  else
    taken = take_singly(sa, items, count, &news, reason);
  sa_mark(sa, sa->sequence);
  if (taken > 0) sa->last_used_ns = now;
  spin_unlock(&sa->lock);
  if (block) number(items, count, last);
  sa_raise(plane, sa, news);
  return taken;
}

/* Grows whenever one of its counters does; under its lock. */
static uint64_t done_by(const struct sa *sa) {
  return sa->packets + sa->replay_drops + sa->integrity_failures + sa->selector_drops +
         (sa->inbound ? sa->window.top : sa->sequence);
}

/* False when only changes are wanted and there is none. */
static bool row_read(struct sa *sa, bool changes, struct sa_statistics *row) {
  spin_lock(&sa->lock);
  uint64_t done = done_by(sa);
  bool wanted = !changes || done != sa->reported;
  if (wanted)
    *row = (struct sa_statistics){
        .inbound = sa->inbound,
        .connection = sa->connection->id,
        .spi = sa->spi,
        .packets = sa->packets,
        .octets = sa->octets,
        .sequence = sa->inbound ? sa->window.top : sa->sequence,
        .last_used_ns = sa->last_used_ns,
        .replay_drops = sa->replay_drops,
        .integrity_failures = sa->integrity_failures,
        .selector_drops = sa->selector_drops,
    };
  spin_unlock(&sa->lock);
  if (changes && wanted) sa->reported = done;
  return wanted;
}

struct fault sa_retire(struct dataplane *plane, bool inbound, uint32_t connection_id, uint32_t spi,
                       struct sa_statistics *last) {
  *last = (struct sa_statistics){0};
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct sa *sa = sa_find(plane, inbound, connection_id, spi);
  if (sa && !inbound) fault = policy_leave(plane, sa);
  if (sa && !fault.sentence) {
    sa_leave(plane, sa);
    sa_unlink(plane, sa);
    workers_quiesce(plane);
    row_read(sa, false, last);
    sa_free(sa);
  }
  control_leave(plane);
  return fault;
}

struct fault sa_remove(struct dataplane *plane, bool inbound, uint32_t connection, uint32_t spi) {
  struct sa_statistics last;
  return sa_retire(plane, inbound, connection, spi, &last);
}

static struct fault rows_read(struct dataplane *plane, bool changes, struct sa_statistics **rows, size_t *count) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  size_t most = plane->outbound_sas.count + spi_count(plane);
  *rows = calloc(most + 1, sizeof **rows);
  *count = 0;
  if (!*rows) fault.sentence = "out of memory";
  for (struct sa *sa = plane->sas; sa && *rows; sa = sa->next)
    *count += row_read(sa, changes, &(*rows)[*count]);
  control_leave(plane);
  return fault;
}

struct fault sa_statistics(struct dataplane *plane, struct sa_statistics **rows, size_t *count) {
  return rows_read(plane, false, rows, count);
}

struct fault sa_changes(struct dataplane *plane, struct sa_statistics **rows, size_t *count) {
  return rows_read(plane, true, rows, count);
}
