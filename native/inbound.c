/* Socket -> SPI -> replay window -> open -> selectors -> coalesce -> TUN.
 *
 *    recvmmsg   merged datagrams (UDP_GRO) into 64 KB slots
 *    classify   every segment by itself: keepalive, IKE, or ESP of some SA
 *    burst      neighbours of one SA from one sender: checked against the window, opened in place together, marked
 *    deliver    selectors, then the coalescer, which points into the slots
 *    write      one writev for each merged packet; all of them before the slots are used again
 *
 * Nothing of an SA moves (window, counters, the peer's address) before the ICV verified, but the counts of failures.
 */
#include "inbound.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "inner.h"
#include "segment.h"
#include "tun.h"
#include "udp.h"

#define BURST_MAX   128
#define TURN_ROUNDS 2 /* recvmmsg calls in one turn, so that the other direction gets its share */

enum { NEXT_HEADER_IPV4 = 4, NEXT_HEADER_IPV6 = 41, NEXT_HEADER_NONE = 59 };

struct inbound {
  /* The burst being gathered. */
  struct sa *sa;
  struct endpoint remote;
  bool raw;
  uint8_t ecn; /* of the outer headers */
  size_t count;
  struct esp_open_item items[BURST_MAX];
  /* What is about to be written to a TUN. */
  struct connection *connection;
  struct coalescer coalescer;
  struct receive_slots slots;
};

static void classify(struct worker *worker, struct source *source, const struct received *from, uint8_t *packet,
                     size_t length);
static void open_burst(struct worker *worker);
static void write_out(struct worker *worker);

struct inbound *inbound_new(void) {
  struct inbound *in = calloc(1, sizeof *in);
  uint8_t *data = aligned_alloc(CACHE_LINE, (size_t)RECEIVE_SLOTS * RECEIVE_SLOT_OCTETS);
  if (!in || !data) {
    free(in);
    free(data);
    return NULL;
  }
  receive_slots_init(&in->slots, data);
  coalescer_reset(&in->coalescer);
  return in;
}

void inbound_free(struct inbound *in) {
  if (!in) return;
  free(in->slots.data);
  free(in);
}

void inbound_turn(struct worker *worker, struct source *source) {
  struct inbound *in = worker->inbound;
  int count = RECEIVE_SLOTS;
  stages_begin(worker);
  for (int round = 0; round < TURN_ROUNDS && count == RECEIVE_SLOTS; round++) {
    count = udp_receive(worker, source, &in->slots);
    stage_ended(worker, STAGE_RECEIVE);
    for (int i = 0; i < count; i++) {
      struct received from;
      if (!udp_received(&in->slots, source, i, &from) || from.length == 0) {
        drop_count(worker, NULL, DROP_TOO_SHORT, 1);
        continue;
      }
      /* One GRO buffer may mix SPIs and IKE: only addresses, ports and sizes are equal in it. */
      for (size_t offset = 0; offset < from.length; offset += from.segment_size) {
        size_t left = from.length - offset;
        classify(worker, source, &from, from.data + offset, left < from.segment_size ? left : from.segment_size);
      }
    }
    open_burst(worker);
    write_out(worker);
  }
}

/* ---- one datagram ---- */

static void unknown_spi(struct worker *worker, const struct received *from, uint32_t spi) {
  drop_count(worker, NULL, DROP_UNKNOWN_SPI, 1);
  if (once_per_second(&worker->plane->unknown_spi_second))
    event_raise_at(worker->plane, EVENT_UNKNOWN_SPI, 0, spi, &from->remote);
}

/* True when it was no ESP. */
static bool take_non_esp(struct worker *worker, struct source *source, const struct received *from,
                         const uint8_t *packet, size_t length) {
  if (length == 1 && packet[0] == 0xff) { /* RFC 3948 2.3 */
    drop_count(worker, NULL, DROP_KEEPALIVE, 1);
    return true;
  }
  if (length <= 4 || load32(packet) != 0) return false; /* RFC 3948 2.2: the non-ESP marker */
  if (!punt_push(worker->plane, packet + 4, length - 4, &from->local, &from->remote, source->fd))
    drop_count(worker, NULL, DROP_PUNT_FULL, 1);
  return true;
}

static void classify(struct worker *worker, struct source *source, const struct received *from, uint8_t *packet,
                     size_t length) {
  struct inbound *in = worker->inbound;
  if (source->kind == SOURCE_UDP && take_non_esp(worker, source, from, packet, length)) return;
  if (length < 8) {
    drop_count(worker, NULL, DROP_TOO_SHORT, 1);
    return;
  }
  uint32_t spi = load32(packet);
  bool same = in->count > 0 && in->sa->spi == spi && in->ecn == from->ecn && endpoint_equal(&in->remote, &from->remote);
  if (!same || in->count == BURST_MAX) {
    open_burst(worker);
    struct sa *sa = sa_lookup(worker->plane, spi);
    if (!sa) {
      unknown_spi(worker, from, spi);
      return;
    }
    in->sa = sa;
    in->remote = from->remote;
    in->ecn = from->ecn;
    in->raw = source->kind == SOURCE_RAW;
  }
  in->items[in->count++] = (struct esp_open_item){.packet = packet, .length = length};
}

/* ---- one burst of an SA ---- */

/* RFC 4303 3.4.3: the window is asked before the ICV is computed. Keeps what may be new. */
static void check_replay(struct worker *worker, struct inbound *in) {
  struct sa *sa = in->sa;
  size_t kept = 0, stopped = 0, count = in->count;
  spin_lock(&sa->lock);
  for (size_t i = 0; i < count; i++) {
    struct esp_open_item *item = &in->items[i];
    item->sequence = replay_infer(&sa->window, load32(item->packet + 4));
    if (sa->hard_reached)
      stopped++;
    else if (replay_check(&sa->window, item->sequence))
      in->items[kept++] = *item;
  }
  size_t replayed = count - kept - stopped;
  sa->replay_drops += replayed;
  spin_unlock(&sa->lock);
  in->count = kept;
  if (replayed) drop_count(worker, sa->connection, DROP_REPLAY, replayed);
  if (stopped) drop_count(worker, sa->connection, DROP_HARD_LIMIT, stopped);
}

static bool came_from_elsewhere(const struct inbound *in) {
  const struct endpoint *peer = &in->sa->peer;
  /* RFC 7296 2.23: a peer may send either form at any time. A packet without UDP shows no port to send to: it does not
   * move who is reached through UDP; and where there is no UDP only addresses are compared. */
  if (in->raw && in->sa->encapsulate) return false;
  if (!in->sa->encapsulate)
    return peer->family != in->remote.family || memcmp(peer->address, in->remote.address, sizeof peer->address) != 0;
  return peer->port != in->remote.port || peer->family != in->remote.family ||
         memcmp(peer->address, in->remote.address, sizeof peer->address) != 0;
}

static const enum drop_reason drop_of_result[] = {
    [ESP_TOO_SHORT] = DROP_TOO_SHORT, [ESP_BAD_ICV] = DROP_INTEGRITY, [ESP_BAD_TRAILER] = DROP_BAD_TRAILER};

/* What the authenticated packets of a burst change, found under the SA's lock and told after it. */
struct verdict {
  struct sa_news news;
  bool moved, integrity_burst;
  size_t drops[DROP_REASON_COUNT];
};

/* Another worker may have opened the same packet meanwhile: replay_accept decides. */
static bool accept_item(struct inbound *in, const struct esp_open_item *item, uint64_t now, struct verdict *verdict) {
  struct sa *sa = in->sa;
  if (item->result == ESP_TOO_SHORT || item->result == ESP_BAD_ICV) {
    verdict->drops[drop_of_result[item->result]]++;
    return false;
  }
  uint64_t top = sa->window.top;
  if (!replay_accept(&sa->window, item->sequence)) {
    verdict->drops[DROP_REPLAY]++;
    return false;
  }
  /* Once a second and SA: who bounces a peer between addresses must not push others' events out of the ring. A move
   * passed over now is seen with the next packet. */
  if (item->sequence > top && sa->moved_second != now / 1000000000u + 1 && came_from_elsewhere(in)) {
    sa->moved_second = now / 1000000000u + 1;
    sa->peer = in->remote;
    verdict->moved = true;
  }
  if (item->result != ESP_OK) {
    verdict->drops[drop_of_result[item->result]]++;
    return false;
  }
  if (!sa_account(sa, item->payload_length, &verdict->news)) {
    verdict->drops[DROP_HARD_LIMIT]++;
    return false;
  }
  return true;
}

/* Keeps the accepted items, in order. */
static void accept_burst(struct inbound *in, struct verdict *verdict) {
  struct sa *sa = in->sa;
  uint64_t now = now_ns();
  size_t kept = 0;
  spin_lock(&sa->lock);
  for (size_t i = 0; i < in->count; i++)
    if (accept_item(in, &in->items[i], now, verdict)) in->items[kept++] = in->items[i];
  if (kept > 0) sa->last_used_ns = now;
  sa->replay_drops += verdict->drops[DROP_REPLAY];
  sa->integrity_failures += verdict->drops[DROP_INTEGRITY];
  if (verdict->drops[DROP_INTEGRITY] && sa->integrity_second != now / 1000000000u + 1) {
    sa->integrity_second = now / 1000000000u + 1;
    verdict->integrity_burst = true;
  }
  spin_unlock(&sa->lock);
  in->count = kept;
}

static void tell(struct worker *worker, const struct inbound *in, const struct verdict *verdict) {
  struct dataplane *plane = worker->plane;
  const struct sa *sa = in->sa;
  for (int reason = 0; reason < DROP_REASON_COUNT; reason++)
    if (verdict->drops[reason]) drop_count(worker, sa->connection, (enum drop_reason)reason, verdict->drops[reason]);
  sa_raise(plane, sa, verdict->news);
  if (verdict->integrity_burst) event_raise(plane, EVENT_INTEGRITY_BURST, sa->connection->id, sa->spi, "", 0);
  if (verdict->moved) event_raise_at(plane, EVENT_PEER_MOVED, sa->connection->id, sa->spi, &in->remote);
}

/* ---- inner packets ---- */

/* RFC 6040 4.2: the inner ECN field after decapsulation; false when the packet has to be dropped. */
static bool carry_ecn(uint8_t outer, const struct flow *flow, uint8_t *packet) {
  uint8_t *octet = flow->ipv6 ? packet + 1 : packet + IPV4_TOS;
  unsigned shift = flow->ipv6 ? 4 : 0; /* RFC 8200 3: the traffic class lies across two octets */
  uint8_t inner = *octet >> shift & ECN_MASK, carried = inner;
  if (outer == ECN_CE) {
    if (inner == ECN_NOT_ECT) return false;
    carried = ECN_CE;
  } else if (outer == ECN_ECT_1 && inner == ECN_ECT_0) {
    carried = ECN_ECT_1;
  }
  if (carried == inner) return true;
  uint16_t before = load16(packet);
  *octet = (uint8_t)(*octet ^ (inner ^ carried) << shift);
  if (!flow->ipv6) checksum_update(packet + IPV4_CHECKSUM, before, load16(packet));
  return true;
}

static void deliver(struct worker *worker, struct sa *sa, const struct esp_open_item *item) {
  struct inbound *in = worker->inbound;
  struct connection *connection = sa->connection;
  struct flow flow;
  size_t length; /* RFC 4303 2.7: behind the inner packet there may be TFC padding */
  if (item->next_header == NEXT_HEADER_NONE) {
    drop_count(worker, connection, DROP_DUMMY, 1);
    return;
  }
  if (!flow_parse(item->payload, item->payload_length, &flow, &length) ||
      flow.ipv6 != (item->next_header == NEXT_HEADER_IPV6)) {
    drop_count(worker, connection, DROP_INNER_MALFORMED, 1);
    return;
  }
  /* RFC 4301 5.2 step 4. */
  if (!sa_carries(sa, &flow)) {
    drop_count(worker, connection, DROP_SELECTOR, 1);
    spin_lock(&sa->lock);
    sa->selector_drops++;
    spin_unlock(&sa->lock);
    return;
  }
  if (in->ecn != ECN_NOT_ECT && !carry_ecn(in->ecn, &flow, item->payload)) {
    drop_count(worker, connection, DROP_ECN, 1);
    return;
  }
  uint16_t mss4 = atomic_load_explicit(&connection->mss4, memory_order_relaxed);
  uint16_t mss6 = atomic_load_explicit(&connection->mss6, memory_order_relaxed);
  if (flow.syn && (mss4 || mss6)) segment_clamp_mss(item->payload, length, mss4, mss6, false);

  if (in->connection != connection) write_out(worker);
  in->connection = connection;
  if (!coalescer_add(&in->coalescer, item->payload, length, connection->merge_udp)) {
    write_out(worker);
    in->connection = connection;
    coalescer_add(&in->coalescer, item->payload, length, connection->merge_udp);
  }
}

static void open_burst(struct worker *worker) {
  struct inbound *in = worker->inbound;
  struct sa *sa = in->sa;
  if (in->count == 0) return;
  check_replay(worker, in);
  if (in->count > 0) {
    struct verdict verdict;
    memset(&verdict, 0, sizeof verdict);
    esp_open(worker->esp, sa->key, in->items, in->count);
    accept_burst(in, &verdict);
    if (in->count > 0) burst_count(&worker->counters.in, in->count);
    stage_ended(worker, STAGE_OPEN);
    tell(worker, in, &verdict);
    for (size_t i = 0; i < in->count; i++)
      deliver(worker, sa, &in->items[i]);
    stage_ended(worker, STAGE_DELIVER);
  }
  in->count = 0;
  in->sa = NULL;
}

static void write_out(struct worker *worker) {
  struct inbound *in = worker->inbound;
  struct coalescer *coalescer = &in->coalescer;
  if (coalescer->iov_count > 0) {
    coalescer_finish(coalescer);
    stage_ended(worker, STAGE_DELIVER);
    if (!tun_write(worker, in->connection, coalescer->iov, coalescer->iov_count))
      drop_count(worker, in->connection, DROP_TUN_WRITE_FAILED, coalescer->segments);
    stage_ended(worker, STAGE_WRITE);
    coalescer_reset(coalescer);
  }
  in->connection = NULL;
}
