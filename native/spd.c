/* The SPD half: reading an inner packet's selectors, matching them, and a connection's list of outbound SAs. */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane.h"
#include "inner.h"

#define IPV6_EXTENSIONS_MAX 8
#define IPPROTO_MOBILITY    135

static uint64_t load64(const uint8_t *p) {
  return (uint64_t)load32(p) << 32 | load32(p + 4);
}

/* `transport` octets are left from the transport header on. */
static void read_ports(struct flow *flow, const uint8_t *header, size_t transport) {
  switch (flow->protocol) {
  case IPPROTO_TCP:
    flow->syn = transport >= TCP_MINIMUM && (header[TCP_FLAGS] & TCP_SYN);
    /* fall through */
  case IPPROTO_UDP:
  case IPPROTO_UDPLITE:
  case IPPROTO_SCTP:
  case IPPROTO_DCCP:
    if (transport < 4) return;
    flow->source_port = load16(header);
    flow->destination_port = load16(header + 2);
    break;
  case IPPROTO_ICMP:
  case IPPROTO_ICMPV6:
    if (transport < 2) return;
    flow->source_port = flow->destination_port = load16(header);
    break;
  case IPPROTO_MOBILITY:
    if (transport < 3) return;
    flow->source_port = flow->destination_port = (uint16_t)(header[2] << 8);
    break;
  default:
    return;
  }
  flow->ports_known = true;
}

static bool parse_ipv4(const uint8_t *packet, size_t length, struct flow *flow, size_t *total) {
  size_t header = (size_t)(packet[0] & 0x0f) * 4;
  if (length < 20 || header < 20 || length < header) return false;
  *total = load16(packet + 2);
  if (*total < header || *total > length) return false;
  flow->ipv6 = false;
  flow->source = (struct address){0, load32(packet + 12)};
  flow->destination = (struct address){0, load32(packet + 16)};
  flow->protocol = packet[9];
  if ((load16(packet + 6) & 0x1fff) == 0) read_ports(flow, packet + header, *total - header);
  return true;
}

static bool parse_ipv6(const uint8_t *packet, size_t length, struct flow *flow, size_t *total) {
  if (length < 40) return false;
  *total = 40u + load16(packet + 4);
  if (*total > length) return false;
  length = *total;
  flow->ipv6 = true;
  flow->source = (struct address){load64(packet + 8), load64(packet + 16)};
  flow->destination = (struct address){load64(packet + 24), load64(packet + 32)};
  uint8_t next = packet[6];
  size_t offset = 40;
  bool first = true;
  for (int i = 0; i < IPV6_EXTENSIONS_MAX && first; i++) {
    bool fragment = next == IPPROTO_FRAGMENT;
    if (!fragment && next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS) break;
    if (offset + 8 > length) {
      first = false;
      break;
    }
    size_t size = fragment ? 8 : 8 * ((size_t)packet[offset + 1] + 1);
    if (fragment) first = (load16(packet + offset + 2) & 0xfff8) == 0;
    next = packet[offset];
    offset += size;
  }
  flow->protocol = next;
  if (first && offset <= length) read_ports(flow, packet + offset, length - offset);
  return true;
}

bool flow_parse(const uint8_t *packet, size_t length, struct flow *flow, size_t *total) {
  memset(flow, 0, sizeof *flow);
  if (length < 20) return false;
  switch (packet[0] >> 4) {
  case 4:
    return parse_ipv4(packet, length, flow, total);
  case 6:
    return parse_ipv6(packet, length, flow, total);
  default:
    return false;
  }
}

static bool at_least(struct address a, struct address b) {
  return a.high > b.high || (a.high == b.high && a.low >= b.low);
}

static bool between(struct address a, struct address first, struct address last) {
  return at_least(a, first) && at_least(last, a);
}

/* RFC 4301 7: what shows no ports (a later fragment) travels only under a selector that takes any. */
static bool port_between(const struct flow *flow, uint16_t port, uint16_t first, uint16_t last) {
  return (first == 0 && last == 0xffff) || (flow->ports_known && port >= first && port <= last);
}

static bool selector_matches(const struct selector *s, const struct flow *flow, bool inbound) {
  if (s->ipv6 != flow->ipv6) return false;
  if (s->protocol != 0 && s->protocol != flow->protocol) return false;
  struct address local = inbound ? flow->destination : flow->source;
  struct address remote = inbound ? flow->source : flow->destination;
  uint16_t local_port = inbound ? flow->destination_port : flow->source_port;
  uint16_t remote_port = inbound ? flow->source_port : flow->destination_port;
  return between(local, s->local_first, s->local_last) && between(remote, s->remote_first, s->remote_last) &&
         port_between(flow, local_port, s->local_port_first, s->local_port_last) &&
         port_between(flow, remote_port, s->remote_port_first, s->remote_port_last);
}

bool sa_carries(const struct sa *sa, const struct flow *flow) {
  for (size_t i = 0; i < sa->selector_count; i++)
    if (selector_matches(&sa->selectors[i], flow, sa->inbound)) return true;
  return false;
}

struct sa *policy_match(const struct policy *policy, const struct flow *flow) {
  if (!policy) return NULL;
  for (size_t i = 0; i < policy->count; i++)
    if (sa_carries(policy->sas[i], flow)) return policy->sas[i];
  return NULL;
}

struct fault policies_replace(struct dataplane *plane, uint32_t connection_id, const uint32_t *spis, size_t count) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct connection *connection = connection_find(plane, connection_id);
  struct policy *policy = calloc(1, sizeof *policy + count * sizeof policy->sas[0]);
  if (!connection) fault.sentence = "unknown connection";
  if (!policy) fault.sentence = "out of memory";
  for (size_t i = 0; i < count && !fault.sentence; i++) {
    policy->sas[policy->count] = sa_find(plane, false, connection_id, spis[i]);
    if (!policy->sas[policy->count++]) fault.sentence = "unknown outbound SPI in the policy list";
  }
  if (fault.sentence) {
    free(policy);
  } else {
    struct policy *old = atomic_exchange(&connection->policy, policy);
    workers_quiesce(plane);
    free(old);
  }
  control_leave(plane);
  return fault;
}

struct policy *policy_without(const struct policy *policy, const struct sa *sa) {
  struct policy *copy = calloc(1, sizeof *copy + policy->count * sizeof copy->sas[0]);
  if (!copy) return NULL;
  for (size_t i = 0; i < policy->count; i++)
    if (policy->sas[i] != sa) copy->sas[copy->count++] = policy->sas[i];
  return copy;
}
