/* The SPD half: matching an inner packet with selectors, and a connection's list of outbound SAs. */
#include <stdlib.h>
#include <string.h>

#include "dataplane.h"
#include "inner.h"

static bool at_least(struct address a, struct address b) {
  return a.high > b.high || (a.high == b.high && a.low >= b.low);
}

static bool between(struct address a, struct address first, struct address last, bool ipv6) {
  if (!ipv6) return a.low >= first.low && a.low <= last.low;
  return at_least(a, first) && at_least(last, a);
}

/* RFC 4301 7: what shows no ports (a later fragment) travels only under a selector that takes any. */
static bool port_between(const struct inner *inner, uint16_t port, uint16_t first, uint16_t last) {
  return (first == 0 && last == 0xffff) || (inner->ports_known && port >= first && port <= last);
}

static bool selector_matches(const struct selector *s, const struct inner *inner, bool inbound) {
  bool ipv6 = inner->ipv6;
  if (s->ipv6 != ipv6) return false;
  if (s->protocol != 0 && s->protocol != inner->protocol) return false;
  const struct address *local = inbound ? &inner->destination : &inner->source;
  const struct address *remote = inbound ? &inner->source : &inner->destination;
  uint16_t local_port = inbound ? inner->destination_port : inner->source_port;
  uint16_t remote_port = inbound ? inner->source_port : inner->destination_port;
  return between(*local, s->local_first, s->local_last, ipv6) &&
         between(*remote, s->remote_first, s->remote_last, ipv6) &&
         port_between(inner, local_port, s->local_port_first, s->local_port_last) &&
         port_between(inner, remote_port, s->remote_port_first, s->remote_port_last);
}

bool sa_carries(const struct sa *sa, const struct inner *inner) {
  for (size_t i = 0; i < sa->selector_count; i++)
    if (selector_matches(&sa->selectors[i], inner, sa->inbound)) return true;
  return false;
}

struct sa *policy_match(const struct policy *policy, unsigned worker, const struct inner *inner) {
  if (!policy) return NULL;
  struct sa *const *sas = policy->sas + worker * policy->count;
  for (size_t i = 0; i < policy->count; i++)
    if (sa_carries(sas[i], inner)) return sas[i];
  return NULL;
}

/* ---- the list ---- */

/* How much this worker would rather use others. */
static int distance(const struct sa *sa, unsigned worker) {
  if (sa->worker == ANY_WORKER) return 1;
  return (unsigned)sa->worker == worker ? 0 : 2;
}

/* Stable: among equals the order given. */
static struct policy *policy_new(const struct dataplane *plane, struct sa *const *sas, size_t count) {
  struct policy *policy = calloc(1, sizeof *policy + plane->worker_count * count * sizeof policy->sas[0]);
  if (!policy) return NULL;
  struct sa **place = policy->sas;
  policy->count = count;
  for (unsigned worker = 0; worker < plane->worker_count; worker++)
    for (int d = 0; d <= 2; d++)
      for (size_t i = 0; i < count; i++)
        if (distance(sas[i], worker) == d) *place++ = sas[i];
  return policy;
}

struct fault policies_replace(struct dataplane *plane, uint32_t connection_id, const uint32_t *spis, size_t count) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct connection *connection = connection_find(plane, connection_id);
  struct sa **sas = calloc(count + 1, sizeof *sas);
  struct policy *policy = NULL;
  if (!connection) fault.sentence = "unknown connection";
  if (!sas) fault.sentence = "out of memory";
  for (size_t i = 0; i < count && !fault.sentence; i++) {
    sas[i] = sa_find(plane, false, connection_id, spis[i]);
    if (!sas[i]) fault.sentence = "unknown outbound SPI in the policy list";
  }
  if (!fault.sentence && !(policy = policy_new(plane, sas, count))) fault.sentence = "out of memory";
  free(sas);
  if (policy) {
    struct policy *old = atomic_exchange(&connection->policy, policy);
    workers_quiesce(plane);
    free(old);
  }
  control_leave(plane);
  return fault;
}

struct policy *policy_without(const struct dataplane *plane, const struct policy *policy, const struct sa *sa) {
  size_t all = plane->worker_count * policy->count, kept = 0, named = 0;
  struct policy *copy = calloc(1, sizeof *copy + all * sizeof copy->sas[0]);
  if (!copy) return NULL;
  for (size_t i = 0; i < all; i++)
    if (policy->sas[i] != sa) copy->sas[kept++] = policy->sas[i];
  for (size_t i = 0; i < policy->count; i++)
    named += policy->sas[i] == sa;
  copy->count = policy->count - named;
  return copy;
}
