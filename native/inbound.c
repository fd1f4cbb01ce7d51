/* Socket -> SPI -> replay window -> open -> selectors -> coalesce -> TUN.
 *
 *    recvmmsg   merged datagrams (UDP_GRO) into 64 KB slots
 *    classify   every segment by itself: keepalive, IKE, or ESP of some SA
 *    burst      neighbours of one SA from one sender
 *    slice      checked against the window, opened in place together, marked, while it is in the nearest cache
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

/* A part of the burst, which shrinks to what may be delivered. */
struct slice {
  struct esp_open_item *items;
  size_t count;
};

static void classify(struct worker *worker, struct source *source, const struct received *from);
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
      classify(worker, source, &from);
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

/* False when no SA has the SPI. */
static bool begin_burst(struct worker *worker, const struct source *source, const struct received *from, uint32_t spi) {
  struct inbound *in = worker->inbound;
  open_burst(worker);
  in->sa = sa_lookup(worker->plane, spi);
  if (!in->sa) {
    unknown_spi(worker, from, spi);
    return false;
  }
  in->remote = from->remote;
  in->ecn = from->ecn;
  in->raw = source->kind == SOURCE_RAW;
  return true;
}

/* Every datagram of one buffer by itself: it may mix SPIs and IKE. Only addresses, ports and sizes are equal in it. */
static void classify(struct worker *worker, struct source *source, const struct received *from) {
  struct inbound *in = worker->inbound;
  bool same_sender = in->count > 0 && in->ecn == from->ecn && endpoint_equal(&in->remote, &from->remote);
  for (size_t offset = 0; offset < from->length; offset += from->segment_size) {
    uint8_t *packet = from->data + offset;
    size_t left = from->length - offset, length = left < from->segment_size ? left : from->segment_size;
    if (source->kind == SOURCE_UDP && take_non_esp(worker, source, from, packet, length)) continue;
    if (length < 8) {
      drop_count(worker, NULL, DROP_TOO_SHORT, 1);
      continue;
    }
    uint32_t spi = load32(packet);
    if (!same_sender || in->count == 0 || in->count == BURST_MAX || in->sa->spi != spi)
      if (!(same_sender = begin_burst(worker, source, from, spi))) continue;
    struct esp_open_item *item = &in->items[in->count++];
    item->packet = packet;
    item->length = length;
  }
}

/* ---- one burst of an SA ---- */

/* RFC 4303 3.4.3: the window is asked before the ICV is computed. Keeps what may be new. */
static void check_replay(struct worker *worker, struct sa *sa, struct slice *slice) {
  struct sa_news news = {false, false};
  size_t kept = 0;
  spin_lock(&sa->lock);
  bool stopped = sa->hard_reached;
  if (stopped) sa_stopped(sa, &news);
  for (size_t i = 0; i < slice->count && !stopped; i++) {
    struct esp_open_item *item = &slice->items[i];
    item->sequence = replay_infer(&sa->window, load32(item->packet + 4));
    if (!replay_check(&sa->window, item->sequence)) continue;
    if (kept < i) slice->items[kept] = *item;
    kept++;
  }
  size_t refused = slice->count - kept;
  if (!stopped) sa->replay_drops += refused;
  spin_unlock(&sa->lock);
  slice->count = kept;
  if (stopped) sa_raise(worker->plane, sa, news);
  if (refused) drop_count(worker, sa->connection, stopped ? DROP_HARD_LIMIT : DROP_REPLAY, refused);
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

/* What the authenticated packets of a slice change, found under the SA's lock and told after it. */
struct verdict {
  struct sa_news news;
  bool moved, integrity_burst;
  struct endpoint moved_from;
  size_t drops[DROP_REASON_COUNT];
};

/* Marks the window. Another worker may have opened the same packet meanwhile: replay_accept decides. */
static bool accept_item(struct sa *sa, const struct esp_open_item *item, struct verdict *verdict) {
  bool authentic = item->result == ESP_OK || item->result == ESP_BAD_TRAILER;
  if (authentic && !replay_accept(&sa->window, item->sequence)) {
    verdict->drops[DROP_REPLAY]++;
    return false;
  }
  if (item->result == ESP_OK) return true;
  verdict->drops[drop_of_result[item->result]]++;
  return false;
}

/* All at once, or one by one where a limit is near. */
static void account(struct sa *sa, struct slice *slice, uint64_t octets, struct verdict *verdict) {
  if (sa_account_burst(sa, slice->count, octets)) return;
  size_t kept = 0;
  for (size_t i = 0; i < slice->count; i++)
    if (sa_account(sa, slice->items[i].payload_length, &verdict->news)) slice->items[kept++] = slice->items[i];
  verdict->drops[DROP_HARD_LIMIT] += slice->count - kept;
  slice->count = kept;
}

/* True the first time in a second for one `mark`. */
static bool new_second(uint64_t *mark, uint64_t now) {
  uint64_t second = now / 1000000000u + 1;
  bool is_new = *mark != second;
  *mark = second;
  return is_new;
}

/* Keeps the accepted items, in order. */
static void accept_slice(const struct inbound *in, struct slice *slice, struct verdict *verdict) {
  struct sa *sa = in->sa;
  uint64_t now = now_ns(), octets = 0;
  size_t kept = 0;
  spin_lock(&sa->lock);
  uint64_t top = sa->window.top;
  for (size_t i = 0; i < slice->count; i++) {
    struct esp_open_item *item = &slice->items[i];
    if (!accept_item(sa, item, verdict)) continue;
    octets += item->payload_length;
    if (kept < i) slice->items[kept] = *item;
    kept++;
  }
  sa_mark(sa, sa->window.top);
  slice->count = kept;
  account(sa, slice, octets, verdict);
  if (slice->count > 0) sa->last_used_ns = now;
  /* Once a second and SA: who bounces a peer between addresses must not push others' events out of the ring. A move
   * passed over now is seen with the next packet. */
  if (sa->window.top > top && came_from_elsewhere(in) && new_second(&sa->moved_second, now)) {
    verdict->moved = true;
    verdict->moved_from = sa->peer;
    sa->peer = in->remote;
  }
  sa->replay_drops += verdict->drops[DROP_REPLAY];
  sa->integrity_failures += verdict->drops[DROP_INTEGRITY];
  verdict->integrity_burst = verdict->drops[DROP_INTEGRITY] && new_second(&sa->integrity_second, now);
  spin_unlock(&sa->lock);
}

/* Nobody heard of the move, and it is this one that counts: the next packet tells it again. */
static void take_back(struct sa *sa, const struct endpoint *to, const struct endpoint *from) {
  spin_lock(&sa->lock);
  if (endpoint_equal(&sa->peer, to)) {
    sa->peer = *from;
    sa->moved_second = 0;
  }
  spin_unlock(&sa->lock);
}

static void tell(struct worker *worker, const struct inbound *in, const struct verdict *verdict) {
  struct dataplane *plane = worker->plane;
  struct sa *sa = in->sa;
  for (int reason = 0; reason < DROP_REASON_COUNT; reason++)
    if (verdict->drops[reason]) drop_count(worker, sa->connection, (enum drop_reason)reason, verdict->drops[reason]);
  sa_raise(plane, sa, verdict->news);
  if (verdict->integrity_burst) event_raise(plane, EVENT_INTEGRITY_BURST, sa->connection->id, sa->spi, "", 0);
  if (verdict->moved && !event_raise_at(plane, EVENT_PEER_MOVED, sa->connection->id, sa->spi, &in->remote))
    take_back(sa, &in->remote, &verdict->moved_from);
}

/* ---- inner packets ---- */

/* RFC 6040 4.2: the inner ECN field after decapsulation; false when the packet has to be dropped. */
static bool carry_ecn(uint8_t outer, const struct inner *inner, uint8_t *packet) {
  uint8_t *octet = inner->ipv6 ? packet + 1 : packet + IPV4_TOS;
  unsigned shift = inner->ipv6 ? 4 : 0; /* RFC 8200 3: the traffic class lies across two octets */
  uint8_t sent = *octet >> shift & ECN_MASK, carried = sent;
  if (outer == ECN_CE) {
    if (sent == ECN_NOT_ECT) return false;
    carried = ECN_CE;
  } else if (outer == ECN_ECT_1 && sent == ECN_ECT_0) {
    carried = ECN_ECT_1;
  }
  if (carried == sent) return true;
  uint16_t before = load16(packet);
  *octet = (uint8_t)(*octet ^ (sent ^ carried) << shift);
  if (!inner->ipv6) checksum_update(packet + IPV4_CHECKSUM, before, load16(packet));
  return true;
}

static void selector_mismatch(struct worker *worker, struct sa *sa) {
  drop_count(worker, sa->connection, DROP_SELECTOR, 1);
  spin_lock(&sa->lock);
  sa->selector_drops++;
  spin_unlock(&sa->lock);
}

static void clamp_mss(const struct connection *connection, uint8_t *packet, const struct inner *inner) {
  uint16_t mss4 = atomic_load_explicit(&connection->mss4, memory_order_relaxed);
  uint16_t mss6 = atomic_load_explicit(&connection->mss6, memory_order_relaxed);
  if (mss4 || mss6) segment_clamp_mss(packet, inner->length, mss4, mss6, false);
}

static void deliver(struct worker *worker, struct sa *sa, const struct esp_open_item *item) {
  struct inbound *in = worker->inbound;
  struct connection *connection = sa->connection;
  struct inner inner; /* RFC 4303 2.7: behind the inner packet there may be TFC padding */
  if (item->next_header == NEXT_HEADER_NONE) {
    drop_count(worker, connection, DROP_DUMMY, 1);
    return;
  }
  if (!inner_parse(&inner, item->payload, item->payload_length) ||
      inner.ipv6 != (item->next_header == NEXT_HEADER_IPV6)) {
    drop_count(worker, connection, DROP_INNER_MALFORMED, 1);
    return;
  }
  /* RFC 4301 5.2 step 4. */
  if (!sa_carries(sa, &inner)) {
    selector_mismatch(worker, sa);
    return;
  }
  if (in->ecn != ECN_NOT_ECT && !carry_ecn(in->ecn, &inner, item->payload)) {
    drop_count(worker, connection, DROP_ECN, 1);
    return;
  }
  if (inner.syn) clamp_mss(connection, item->payload, &inner);
  bool joined = in->connection == connection &&
                coalescer_add_parsed(&in->coalescer, item->payload, &inner, connection->merge_udp);
  if (joined) return;
  write_out(worker);
  in->connection = connection;
  coalescer_add_parsed(&in->coalescer, item->payload, &inner, connection->merge_udp);
}

static void open_slice(struct worker *worker, struct slice slice) {
  struct inbound *in = worker->inbound;
  struct sa *sa = in->sa;
  struct verdict verdict;
  check_replay(worker, sa, &slice);
  if (slice.count == 0) return;
  memset(&verdict, 0, sizeof verdict);
  esp_open(worker->esp, sa->key, slice.items, slice.count);
  accept_slice(in, &slice, &verdict);
  if (slice.count > 0) burst_count(&worker->counters.in, slice.count);
  stage_ended(worker, STAGE_OPEN);
  tell(worker, in, &verdict);
  for (size_t i = 0; i < slice.count; i++)
    deliver(worker, sa, &slice.items[i]);
  stage_ended(worker, STAGE_DELIVER);
}

static void open_burst(struct worker *worker) {
  struct inbound *in = worker->inbound;
  size_t most = in->count ? esp_open_slice(in->sa->key) : 0;
  for (size_t done = 0, some; done < in->count; done += some) {
    size_t octets = 0;
    for (some = 0; done + some < in->count && octets < most; some++)
      octets += in->items[done + some].length;
    open_slice(worker, (struct slice){in->items + done, some});
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
