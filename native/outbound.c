/* TUN -> selectors -> SA -> segments -> seal -> socket.
 *
 *    read()            one (super-)packet with its virtio header into `read`
 *    flow, policy      the first outbound SA that carries it
 *    segmenter         each segment straight to its place in `buffer`, behind room for the ESP header
 *    flush             sequence numbers reserved for all, sealed in place in one burst
 *    runs              sealed neighbours of equal size and TOS become one UDP_SEGMENT send; one sendmmsg for all
 *
 * The buffers belong to the worker. Nothing stays in them between two turns, so no SA is remembered across a quiescent
 * point.
 */
#include "outbound.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "inner.h"
#include "segment.h"
#include "tun.h"
#include "udp.h"

#define ITEMS_MAX     128
#define BUFFER_OCTETS (192 * 1024)
/* One turn's budget, so that the other direction gets its share. */
#define TURN_PACKETS 64
#define TURN_OCTETS  (256 * 1024)
#define IPV6_MTU_MIN 1280

#define IPV4_DONT_FRAGMENT  0x4000
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_OFFSET         0x1fff
#define IPV4_PAYLOAD_MAX    (65535 - 20)

struct outbound {
  struct sa *sa; /* of what is buffered; NULL: nothing is */
  size_t used, item_count;
  struct esp_seal_item items[ITEMS_MAX];
  uint8_t tos[ITEMS_MAX]; /* of the items: TOS or traffic class */
  struct run runs[ITEMS_MAX];
  alignas(CACHE_LINE) uint8_t buffer[BUFFER_OCTETS];
  alignas(CACHE_LINE) uint8_t read[TUN_PACKET_OCTETS + VNET_OCTETS];
  uint8_t whole[TUN_PACKET_OCTETS]; /* a segment before it is fragmented */
};

static void forward(struct worker *worker, struct connection *connection, const struct virtio_net_hdr_v1 *vnet,
                    uint8_t *packet, size_t length);
static void flush(struct worker *worker);

struct outbound *outbound_new(void) {
  struct outbound *outbound = aligned_alloc(CACHE_LINE, sizeof *outbound);
  if (outbound) memset(outbound, 0, sizeof *outbound);
  return outbound;
}

void outbound_free(struct outbound *outbound) {
  free(outbound);
}

bool outbound_turn(struct worker *worker, struct source *queue) {
  struct outbound *out = worker->outbound;
  size_t octets = 0;
  ssize_t got = 0;
  stages_begin(worker);
  for (int packets = 0; packets < TURN_PACKETS && octets < TURN_OCTETS; packets++) {
    got = read(queue->fd, out->read, sizeof out->read);
    counter_add(&worker->counters.tun_reads, 1);
    stage_ended(worker, STAGE_READ);
    if (got < (ssize_t)VNET_OCTETS) break;
    struct virtio_net_hdr_v1 vnet;
    memcpy(&vnet, out->read, sizeof vnet);
    octets += (size_t)got;
    forward(worker, queue->connection, &vnet, out->read + VNET_OCTETS, (size_t)got - VNET_OCTETS);
    stage_ended(worker, STAGE_SEGMENT);
  }
  int error = got < 0 ? errno : 0;
  flush(worker);
  return error == 0 || error == EAGAIN || error == EINTR || error == EFAULT || error == EIO;
}

/* ---- one packet ---- */

static void no_sa(struct worker *worker, struct connection *connection, const uint8_t *packet, size_t length,
                  uint32_t count) {
  drop_count(worker, connection, DROP_NO_SA, count);
  if (once_per_second(&connection->acquire_second))
    event_raise(worker->plane, EVENT_ACQUIRE, connection->id, 0, packet, length);
}

/* Room for one inner packet of this SA; the place where it goes. */
static uint8_t *reserve(struct worker *worker, struct sa *sa, size_t length) {
  struct outbound *out = worker->outbound;
  size_t sealed = esp_sealed_length(sa->key, length);
  if (out->sa && (out->sa != sa || out->item_count == ITEMS_MAX || out->used + sealed > BUFFER_OCTETS)) flush(worker);
  out->sa = sa;
  return out->buffer + out->used + esp_header_length(sa->key);
}

/* Takes the packet that now stands at the reserved place. */
static void commit(struct worker *worker, size_t length) {
  struct outbound *out = worker->outbound;
  uint8_t *packet = out->buffer + out->used;
  size_t sealed = esp_sealed_length(out->sa->key, length);
  const uint8_t *inner = packet + esp_header_length(out->sa->key);
  bool ipv6 = inner[0] >> 4 == 6;
  /* RFC 4301 5.1.2.1: the outer DS field is the inner one's. RFC 6040 4.1, 5.1: so is the outer ECN field, for who
   * speaks IKEv2 obeys it at decapsulation. */
  out->tos[out->item_count] = ipv6 ? (uint8_t)(load16(inner) >> 4) : inner[IPV4_TOS];
  out->items[out->item_count++] =
      (struct esp_seal_item){.packet = packet, .payload_length = length, .next_header = ipv6 ? 41 : 4};
  out->used += sealed;
}

static void put_copy(struct worker *worker, struct sa *sa, const uint8_t *packet, size_t length) {
  memcpy(reserve(worker, sa, length), packet, length);
  commit(worker, length);
}

/* RFC 791 3.1: options without the copied flag stand in the first fragment only; elsewhere they become no-operations.
 */
static void blank_uncopied_options(uint8_t *header, size_t length) {
  size_t i = 20;
  while (i < length && header[i] != 0) {
    size_t option = header[i] == 1 ? 1 : i + 1 < length ? header[i + 1] : 0;
    if (option == 0 || i + option > length) return;
    if (!(header[i] & 0x80)) memset(header + i, 1, option);
    i += option;
  }
}

/* RFC 4301 8.2.1, RFC 791 3.2: fragmentation before encryption, so that the peer's gateway has nothing to reassemble.
 */
static void put_fragments(struct worker *worker, struct sa *sa, uint8_t *packet, size_t length, uint32_t mtu) {
  size_t header = (size_t)(packet[0] & 0x0f) * 4, payload = length - header;
  size_t piece = (mtu - header) & ~(size_t)7;
  uint16_t field = load16(packet + IPV4_FRAGMENT);
  if (mtu < header + 8) {
    drop_count(worker, sa->connection, DROP_TOO_BIG, 1);
    return;
  }
  /* RFC 791 3.2: no whole packet is that long. Split, its offsets would wrap and its tail pose as a first fragment. */
  if ((field & IPV4_OFFSET) * (size_t)8 + payload > IPV4_PAYLOAD_MAX) {
    drop_count(worker, sa->connection, DROP_INNER_MALFORMED, 1);
    return;
  }
  for (size_t offset = 0; offset < payload; offset += piece) {
    size_t octets = payload - offset < piece ? payload - offset : piece;
    bool more = offset + octets < payload || (field & IPV4_MORE_FRAGMENTS);
    uint8_t *place = reserve(worker, sa, header + octets);
    memcpy(place, packet, header);
    if (offset > 0) blank_uncopied_options(place, header);
    memcpy(place + header, packet + header + offset, octets);
    store16(place + IPV4_TOTAL_LENGTH, (uint32_t)(header + octets));
    store16(place + IPV4_FRAGMENT, ((field & IPV4_OFFSET) + (uint32_t)offset / 8) | (more ? IPV4_MORE_FRAGMENTS : 0));
    store16(place + IPV4_CHECKSUM, 0);
    store_checksum(place + IPV4_CHECKSUM, checksum_fold(checksum_add(0, place, header)));
    commit(worker, header + octets);
  }
}

static void put_segments(struct worker *worker, struct sa *sa, struct segmenter *segmenter) {
  size_t length;
  while ((length = segmenter_next_length(segmenter)) != 0) {
    segmenter_next(segmenter, reserve(worker, sa, length));
    commit(worker, length);
  }
}

static bool same_address(struct address a, struct address b) {
  return a.high == b.high && a.low == b.low;
}

/* The SA's own ESP, routed into its tunnel by mistake: sealed again it would come back for ever. */
static bool is_own_esp(const struct sa *sa, const struct flow *flow) {
  const struct outer *outer = atomic_load_explicit(&sa->outer, memory_order_acquire);
  if (flow->ipv6 != outer->ipv6 || !same_address(flow->destination, outer->remote)) return false;
  if (!outer->any_local && !same_address(flow->source, outer->local)) return false;
  if (outer->raw) return flow->protocol == IPPROTO_ESP;
  return flow->protocol == IPPROTO_UDP && (!flow->ports_known || flow->destination_port == outer->port);
}

static void forward(struct worker *worker, struct connection *connection, const struct virtio_net_hdr_v1 *vnet,
                    uint8_t *packet, size_t length) {
  struct segmenter segmenter;
  struct flow flow;
  size_t total;
  if (!flow_parse(packet, length, &flow, &total)) {
    drop_count(worker, connection, DROP_INNER_MALFORMED, 1);
    return;
  }
  uint16_t mss4 = atomic_load_explicit(&connection->mss4, memory_order_relaxed);
  uint16_t mss6 = atomic_load_explicit(&connection->mss6, memory_order_relaxed);
  if (flow.syn && (mss4 || mss6))
    segment_clamp_mss(packet, total, mss4, mss6, vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM);
  if (segmenter_begin(&segmenter, vnet, packet, length) != SEGMENT_OK) {
    drop_count(worker, connection, DROP_INNER_MALFORMED, 1);
    return;
  }
  uint32_t count = segmenter_count(&segmenter);
  struct sa *sa = policy_match(atomic_load_explicit(&connection->policy, memory_order_acquire), &flow);
  if (!sa) {
    no_sa(worker, connection, packet, total, count);
    return;
  }
  if (is_own_esp(sa, &flow)) {
    drop_count(worker, connection, DROP_LOOP, count);
    return;
  }
  uint32_t mtu = atomic_load_explicit(&connection->mtu, memory_order_relaxed);
  /* RFC 8200 5: every IPv6 link carries 1280 octets; below that it is the outer packet that gets fragmented. */
  if (flow.ipv6 && mtu < IPV6_MTU_MIN) mtu = IPV6_MTU_MIN;
  if (segmenter_next_length(&segmenter) <= mtu) {
    put_segments(worker, sa, &segmenter);
  } else if (flow.ipv6 || (load16(packet + IPV4_FRAGMENT) & IPV4_DONT_FRAGMENT)) {
    drop_count(worker, connection, DROP_TOO_BIG, count);
    tun_too_big(worker, connection, &flow, packet, total, mtu);
  } else {
    uint8_t *whole = worker->outbound->whole;
    while ((length = segmenter_next(&segmenter, whole)) != 0) {
      if (length <= mtu)
        put_copy(worker, sa, whole, length);
      else
        put_fragments(worker, sa, whole, length, mtu);
    }
  }
}

/* ---- what is buffered ---- */

/* Keeps what was sealed, in order; the rest was wiped by esp_seal and its sequence numbers stay used. */
static size_t keep_sealed(struct worker *worker, size_t count) {
  struct outbound *out = worker->outbound;
  size_t kept = 0;
  for (size_t i = 0; i < count; i++) {
    if (out->items[i].length == 0) continue;
    out->tos[kept] = out->tos[i];
    out->items[kept++] = out->items[i];
  }
  if (kept < count) drop_count(worker, out->sa->connection, DROP_SEAL_FAILED, count - kept);
  return kept;
}

/* A run of one for each item. */
static void single_runs(struct outbound *out, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const struct esp_seal_item *item = &out->items[i];
    out->runs[i] = (struct run){item->packet, item->length, (uint32_t)item->length, 1, out->tos[i], true};
  }
}

static size_t gather_runs(struct outbound *out, size_t count, uint32_t most) {
  struct run *runs = out->runs;
  size_t runs_made = 0;
  for (size_t i = 0; i < count; i++) {
    const struct esp_seal_item *item = &out->items[i];
    struct run *run = runs_made ? &runs[runs_made - 1] : NULL;
    if (run && !run->closed && run->tos == out->tos[i] && run->data + run->length == item->packet &&
        item->length <= run->segment_size && run->count < most && run->length + item->length <= GSO_OCTETS_MAX) {
      run->length += item->length;
      run->count++;
      run->closed = item->length < run->segment_size;
    } else {
      runs[runs_made++] = (struct run){item->packet, item->length, (uint32_t)item->length, 1, out->tos[i], false};
    }
  }
  return runs_made;
}

static void flush(struct worker *worker) {
  struct outbound *out = worker->outbound;
  struct sa *sa = out->sa;
  if (!sa) return;
  enum drop_reason reason = DROP_SEQUENCE_EXHAUSTED;
  stage_ended(worker, STAGE_SEGMENT);
  size_t count = sa_take(worker->plane, sa, out->items, out->item_count, &reason);
  if (count < out->item_count) drop_count(worker, sa->connection, reason, out->item_count - count);
  if (count > 0) {
    burst_count(&worker->counters.out, count);
    esp_seal(worker->esp, sa->key, out->items, count);
    count = keep_sealed(worker, count);
  }
  stage_ended(worker, STAGE_SEAL);
  if (sa->encapsulate)
    count = gather_runs(out, count, atomic_load_explicit(&worker->plane->gso_segments, memory_order_relaxed));
  else
    single_runs(out, count); /* Linux has no segmentation for protocol 50 */
  udp_send_runs(worker, sa, out->runs, count);
  stage_ended(worker, STAGE_SEND);
  out->sa = NULL;
  out->used = out->item_count = 0;
}
