/* The SAD: SAs, the table of inbound SPIs, sequence numbers, limits.
 *
 * Ownership: plane->sas owns every SA. Workers reach an inbound SA through the SPI table and an outbound one through
 * its connection's policy; both are unpublished, and the workers have let go, before an SA is freed.
 */
#include <stdlib.h>
#include <string.h>

#include "dataplane.h"
#include "udp.h"

#define SEQUENCE_MAX_32 0xffffffffu
/* Without ESN a rekey is due well before the sequence numbers end. */
#define SEQUENCE_SOFT_32 (SEQUENCE_MAX_32 / 10 * 8)

struct spi_slot {
  uint32_t spi;
  struct sa *sa;
};

/* Open addressing, at most half full. Immutable. */
struct spi_table {
  uint32_t mask;
  struct spi_slot slots[];
};

static uint32_t spi_hash(uint32_t spi) {
  uint32_t hash = spi * 0x9e3779b1u;
  return hash ^ hash >> 15;
}

struct sa *sa_lookup(struct dataplane *plane, uint32_t spi) {
  const struct spi_table *table = atomic_load_explicit(&plane->inbound_sas, memory_order_acquire);
  if (!table) return NULL;
  for (uint32_t i = spi_hash(spi);; i++) {
    const struct spi_slot *slot = &table->slots[i & table->mask];
    if (!slot->sa || slot->spi == spi) return slot->sa;
  }
}

static struct spi_table *spi_table_build(const struct dataplane *plane) {
  size_t count = 0;
  for (const struct sa *sa = plane->sas; sa; sa = sa->next)
    count += sa->inbound;
  uint32_t size = 16;
  while (size < 2 * count)
    size *= 2;
  struct spi_table *table = calloc(1, sizeof *table + size * sizeof table->slots[0]);
  if (!table) return NULL;
  table->mask = size - 1;
  for (struct sa *sa = plane->sas; sa; sa = sa->next) {
    if (!sa->inbound) continue;
    uint32_t i = spi_hash(sa->spi);
    while (table->slots[i & table->mask].sa)
      i++;
    table->slots[i & table->mask] = (struct spi_slot){sa->spi, sa};
  }
  return table;
}

struct sa *sa_find(struct dataplane *plane, bool inbound, uint32_t connection, uint32_t spi) {
  for (struct sa *sa = plane->sas; sa; sa = sa->next)
    if (sa->inbound == inbound && sa->spi == spi && sa->connection->id == connection) return sa;
  return NULL;
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
  if (r->selector_count == 0) return (struct fault){"an SA needs a selector", 0};
  /* RFC 4303 3.3.1: encryption without integrity is not offered here. */
  if (r->suite.encryption == ESP_AES_CBC && r->suite.integrity == ESP_INTEG_NONE)
    return (struct fault){"aes-cbc needs an integrity algorithm", 0};
  for (const struct sa *sa = plane->sas; sa; sa = sa->next)
    if (sa->inbound == r->inbound && sa->spi == r->spi && (r->inbound || sa->connection == connection))
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
  sa->limits = r->limits;
  sa->local = r->local;
  sa->peer = r->remote;
  sa->sequence_limit = sa->esn ? UINT64_MAX : SEQUENCE_MAX_32;
  atomic_init(&sa->socket, r->socket);
  sa->selector_count = r->selector_count;
  sa->selectors = calloc(r->selector_count, sizeof *sa->selectors);
  if (!sa->selectors || !replay_init(&sa->window, r->replay_window, sa->esn)) {
    fault.sentence = "out of memory";
  } else {
    memcpy(sa->selectors, r->selectors, r->selector_count * sizeof *sa->selectors);
    sa->key = esp_key_new(plane->engine, &r->suite, r->encryption_key, r->encryption_key_length, r->integrity_key,
                          r->integrity_key_length, r->spi, !r->inbound, &fault.sentence);
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

/* Publishes the SPI table that plane->sas now calls for. */
static bool spi_table_publish(struct dataplane *plane) {
  struct spi_table *table = spi_table_build(plane);
  if (!table) return false;
  struct spi_table *old = atomic_exchange(&plane->inbound_sas, table);
  workers_quiesce(plane);
  free(old);
  return true;
}

struct fault sa_add(struct dataplane *plane, const struct sa_request *request) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct connection *connection = connection_find(plane, request->connection);
  struct sa *sa = NULL;
  fault = sa_allowed(plane, request, connection);
  if (!fault.sentence) fault = sa_new(plane, request, connection, &sa);
  if (sa) {
    sa->next = plane->sas;
    plane->sas = sa;
    if (sa->inbound && !spi_table_publish(plane)) {
      plane->sas = sa->next;
      sa_free(sa);
      fault.sentence = "out of memory";
    }
  }
  control_leave(plane);
  return fault;
}

struct fault sa_remove(struct dataplane *plane, bool inbound, uint32_t connection_id, uint32_t spi) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct sa *sa = sa_find(plane, inbound, connection_id, spi);
  if (sa) {
    struct sa **link = &plane->sas;
    while (*link != sa)
      link = &(*link)->next;
    *link = sa->next;
    if (inbound) {
      if (!spi_table_publish(plane)) fault.sentence = "out of memory";
    } else {
      struct policy *old = atomic_load(&sa->connection->policy);
      struct policy *policy = old ? policy_without(old, sa) : NULL;
      if (old && !policy) fault.sentence = "out of memory";
      if (policy) atomic_store(&sa->connection->policy, policy);
      workers_quiesce(plane);
      if (policy) free(old);
    }
    if (fault.sentence)
      *link = sa; /* still reachable by workers: it stays */
    else
      sa_free(sa);
  }
  control_leave(plane);
  return fault;
}

struct fault sas_unlink(struct dataplane *plane, struct connection *connection, struct sa **removed) {
  struct sa **link = &plane->sas;
  *removed = NULL;
  while (*link) {
    struct sa *sa = *link;
    if (sa->connection == connection) {
      *link = sa->next;
      sa->next = *removed;
      *removed = sa;
    } else {
      link = &sa->next;
    }
  }
  if (spi_table_publish(plane)) return NO_FAULT;
  *link = *removed;
  *removed = NULL;
  return (struct fault){"out of memory", 0};
}

struct fault sa_update_remote(struct dataplane *plane, uint32_t connection, uint32_t spi,
                              const struct endpoint *remote) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct sa *sa = sa_find(plane, false, connection, spi);
  if (!sa) fault.sentence = "unknown outbound SA";
  struct outer *outer = NULL;
  if (sa) fault = outer_new(atomic_load(&sa->socket), sa->encapsulate, &sa->local, remote, &outer);
  if (outer) {
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
    sa->sequence_limit = !sa->esn && limit > SEQUENCE_MAX_32 ? SEQUENCE_MAX_32 : limit;
    spin_unlock(&sa->lock);
  }
  control_leave(plane);
  return fault;
}

static bool reached(uint64_t value, uint64_t limit) {
  return limit != 0 && value >= limit;
}

bool sa_account(struct sa *sa, uint64_t octets, struct sa_news *news) {
  const struct limits *limits = &sa->limits;
  if (sa->hard_reached) return false;
  if (limits->hard_octets != 0 && sa->octets + octets > limits->hard_octets) {
    sa->hard_reached = news->hard = true;
    return false;
  }
  sa->packets++;
  sa->octets += octets;
  if (reached(sa->packets, limits->hard_packets) || reached(sa->octets, limits->hard_octets))
    sa->hard_reached = news->hard = true;
  if (!sa->soft_raised && (reached(sa->packets, limits->soft_packets) || reached(sa->octets, limits->soft_octets) ||
                           (!sa->esn && sa->packets >= SEQUENCE_SOFT_32)))
    sa->soft_raised = news->soft = true;
  return true;
}

void sa_raise(struct dataplane *plane, const struct sa *sa, struct sa_news news) {
  const char *direction = sa->inbound ? "in" : "out";
  if (news.soft) event_raise(plane, EVENT_EXPIRE_SOFT, sa->connection->id, sa->spi, direction, strlen(direction));
  if (news.hard) event_raise(plane, EVENT_EXPIRE_HARD, sa->connection->id, sa->spi, direction, strlen(direction));
}

size_t sa_take(struct dataplane *plane, struct sa *sa, struct esp_seal_item *items, size_t count,
               enum drop_reason *reason) {
  struct sa_news news = {false, false};
  size_t taken = 0;
  spin_lock(&sa->lock);
  while (taken < count) {
    if (sa->sequence >= sa->sequence_limit) {
      *reason = DROP_SEQUENCE_EXHAUSTED;
      break;
    }
    if (!sa_account(sa, items[taken].payload_length, &news)) {
      *reason = DROP_HARD_LIMIT;
      break;
    }
    items[taken++].sequence = ++sa->sequence;
  }
  if (taken > 0) sa->last_used_ns = now_ns();
  spin_unlock(&sa->lock);
  sa_raise(plane, sa, news);
  return taken;
}

struct fault sa_statistics(struct dataplane *plane, struct sa_statistics **rows, size_t *count) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  size_t total = 0;
  for (const struct sa *sa = plane->sas; sa; sa = sa->next)
    total++;
  *rows = calloc(total + 1, sizeof **rows);
  *count = 0;
  if (!*rows) fault.sentence = "out of memory";
  for (struct sa *sa = plane->sas; sa && *rows; sa = sa->next) {
    spin_lock(&sa->lock);
    (*rows)[(*count)++] = (struct sa_statistics){
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
  }
  control_leave(plane);
  return fault;
}
