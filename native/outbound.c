/* TUN -> selectors -> SA -> segments -> seal -> socket.
 *
 *    readv()           one packet with its virtio header, to the place in `buffer` where it will be sealed; what is
 *                      longer than one packet goes on in `super`
 *    inner, policy     the first outbound SA that carries it
 *    segmenter         each segment of a super-packet straight to its place, behind room for the ESP header
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
#define PLACE_OCTETS  2048 /* of a packet read to its place */
#define HEADER_MAX    64   /* SPI, sequence, IV */
/* One turn's budget, so that the other direction gets its share. */
#define TURN_PACKETS 64
#define TURN_OCTETS  (256 * 1024)
#define IPV6_MTU_MIN 1280

#define IPV4_RESERVED       0x8000
#define IPV4_DONT_FRAGMENT  0x4000
#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_OFFSET         0x1fff
#define IPV4_PAYLOAD_MAX    (65535 - 20)

struct outbound {
  struct sa *sa; /* of what is buffered; NULL: nothing is */
  size_t used, item_count, payload_octets;
  size_t header_length; /* of the last SA: where the next packet is read to */
  uint32_t ip_ids;      /* given to packets that were fragmented in spite of DF */
  struct virtio_net_hdr_v1 vnet;
  struct esp_seal_item items[ITEMS_MAX];
  uint8_t tos[ITEMS_MAX]; /* of the items: TOS or traffic class */
  struct run runs[ITEMS_MAX];
  alignas(CACHE_LINE) uint8_t buffer[BUFFER_OCTETS + HEADER_MAX + PLACE_OCTETS];
  alignas(CACHE_LINE) uint8_t super[TUN_PACKET_OCTETS];
  uint8_t whole[TUN_PACKET_OCTETS]; /* a segment before it is fragmented */
};

/* readv() failed, minus what it never reads. */
#define NOTHING_READ (-1 - (ssize_t)VNET_OCTETS)

static void forward(struct worker *worker, struct connection *connection, uint8_t *packet, size_t length);
static void flush(struct worker *worker);

struct outbound *outbound_new(void) {
  struct outbound *outbound = aligned_alloc(CACHE_LINE, sizeof *outbound);
  if (outbound) memset(outbound, 0, sizeof *outbound);
  return outbound;
}

void outbound_free(struct outbound *outbound) {
  free(outbound);
}

/* One packet from the TUN: where it stands, and how long it is without its virtio header; less than 0: none. What is to
 * be split may not stand where its segments go. */
static ssize_t read_packet(struct worker *worker, int fd, uint8_t **packet) {
  struct outbound *out = worker->outbound;
  uint8_t *place = out->buffer + out->used + out->header_length;
  struct iovec pieces[] = {
      {&out->vnet, VNET_OCTETS}, {place, PLACE_OCTETS}, {out->super + PLACE_OCTETS, sizeof out->super - PLACE_OCTETS}};
  ssize_t length = readv(fd, pieces, 3) - (ssize_t)VNET_OCTETS;
  counter_add(&worker->counters.tun_reads, 1);
  bool stays = length <= PLACE_OCTETS && out->vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE;
  *packet = stays ? place : out->super;
  if (length > 0 && !stays) memcpy(out->super, place, length < PLACE_OCTETS ? (size_t)length : PLACE_OCTETS);
  return length;
}

enum read_end { READ_NO_MORE, READ_LOST, READ_GONE };

static enum read_end read_end(int error) {
  switch (error) {
  case EAGAIN:
  case EINTR:
  case EFAULT: /* these two: the device is about to go */
  case EIO:
    return READ_NO_MORE;
  case EBADF:
  case EBADFD:
    return READ_GONE;
  default:
    /* EINVAL: the kernel took a packet out and has no words for its segmentation. */
    return READ_LOST;
  }
}

bool outbound_turn(struct worker *worker, struct source *queue) {
  size_t octets = 0;
  enum read_end end = READ_NO_MORE;
  stages_begin(worker);
  for (int packets = 0; packets < TURN_PACKETS && octets < TURN_OCTETS; packets++) {
    uint8_t *packet;
    ssize_t length = read_packet(worker, queue->fd, &packet);
    stage_ended(worker, STAGE_READ);
    if (length < 0) {
      end = length == NOTHING_READ ? read_end(errno) : READ_NO_MORE;
      if (end != READ_LOST) break;
      drop_count(worker, queue->connection, DROP_TUN_PACKET_LOST, 1);
      continue; /* it counts for the turn's budget, so also an error that takes none out does not keep the worker */
    }
    octets += (size_t)length;
    forward(worker, queue->connection, packet, (size_t)length);
    stage_ended(worker, STAGE_SEGMENT);
  }
  flush(worker);
  return end != READ_GONE;
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
  size_t sealed = esp_shape_sealed(&sa->shape, length);
  if (out->sa && (out->sa != sa || out->item_count == ITEMS_MAX || out->used + sealed > BUFFER_OCTETS)) flush(worker);
  out->sa = sa;
  out->header_length = sa->shape.header_length;
  return out->buffer + out->used + out->header_length;
}

/* Takes the packet that now stands at the reserved place. */
static void commit(struct worker *worker, size_t length) {
  struct outbound *out = worker->outbound;
  uint8_t *packet = out->buffer + out->used;
  const uint8_t *inner = packet + out->header_length;
  bool ipv6 = inner[0] >> 4 == 6;
  uint8_t tos = ipv6 ? (uint8_t)(load16(inner) >> 4) : inner[IPV4_TOS];
  uint16_t ds = atomic_load_explicit(&out->sa->connection->outer_ds, memory_order_relaxed);
  /* RFC 4301 5.1.2.1: the outer DS field is the inner one's or a fixed one. RFC 6040 4.1, 5.1: the outer ECN field is
   * the inner one's, for who speaks IKEv2 obeys it at decapsulation. */
  out->tos[out->item_count] = ds ? (uint8_t)(ds | (tos & ECN_MASK)) : tos;
  struct esp_seal_item *item = &out->items[out->item_count++];
  item->packet = packet;
  item->payload_length = length;
  item->next_header = ipv6 ? 41 : 4;
  out->used += esp_shape_sealed(&out->sa->shape, length);
  out->payload_octets += length;
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

/* Every worker has identifications of its own, and each comes again as late as can be (RFC 6864 4.2). */
static uint16_t fresh_ip_id(struct worker *worker) {
  uint32_t workers = worker->plane->worker_count, of_each = 65536 / workers;
  return (uint16_t)(worker->outbound->ip_ids++ % of_each * workers + worker->index);
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
  /* RFC 6864 4.1: the identification of such a packet means nothing, many senders leave it zero. */
  if ((field & ~IPV4_RESERVED) == IPV4_DONT_FRAGMENT) store16(packet + IPV4_ID, fresh_ip_id(worker));
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

/* Segments longer than the MTU, or a packet that stays whole: each is written out before it is cut. */
static void put_in_fragments(struct worker *worker, struct sa *sa, struct segmenter *segmenter, uint32_t mtu) {
  uint8_t *whole = worker->outbound->whole;
  size_t length;
  while ((length = segmenter_next(segmenter, whole)) != 0) {
    if (length > mtu) {
      put_fragments(worker, sa, whole, length, mtu);
      continue;
    }
    memcpy(reserve(worker, sa, length), whole, length);
    commit(worker, length);
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

static void clamp_mss(const struct connection *connection, uint8_t *packet, const struct inner *inner, bool partial) {
  uint16_t mss4 = atomic_load_explicit(&connection->mss4, memory_order_relaxed);
  uint16_t mss6 = atomic_load_explicit(&connection->mss6, memory_order_relaxed);
  if (mss4 || mss6) segment_clamp_mss(packet, inner->length, mss4, mss6, partial);
}

/* The SA's own ESP, routed into its tunnel by mistake: sealed again it would come back for ever. */
static bool is_own_esp(const struct sa *sa, const struct inner *inner) {
  const struct outer *outer = atomic_load_explicit(&sa->outer, memory_order_acquire);
  if (inner->ipv6 != outer->ipv6 || !same_address(inner->destination, outer->remote)) return false;
  if (!outer->any_local && !same_address(inner->source, outer->local)) return false;
  if (outer->raw) return inner->protocol == IPPROTO_ESP;
  return inner->protocol == IPPROTO_UDP && (!inner->ports_known || inner->destination_port == outer->port);
}

static void forward(struct worker *worker, struct connection *connection, uint8_t *packet, size_t length) {
  const struct virtio_net_hdr_v1 *vnet = &worker->outbound->vnet;
  struct segmenter segmenter;
  struct inner inner;
  if (!inner_parse(&inner, packet, length)) {
    drop_count(worker, connection, DROP_INNER_MALFORMED, 1);
    return;
  }
  if (inner.syn) clamp_mss(connection, packet, &inner, vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM);
  if (segmenter_begin_parsed(&segmenter, vnet, packet, &inner) != SEGMENT_OK) {
    drop_count(worker, connection, DROP_INNER_MALFORMED, 1);
    return;
  }
  uint32_t count = segmenter_count(&segmenter);
  struct sa *sa = policy_match(atomic_load_explicit(&connection->policy, memory_order_acquire), worker->index, &inner);
  if (!sa) {
    no_sa(worker, connection, packet, inner.length, count);
    return;
  }
  if (is_own_esp(sa, &inner)) {
    drop_count(worker, connection, DROP_LOOP, count);
    return;
  }
  uint32_t mtu = atomic_load_explicit(&connection->mtu, memory_order_relaxed);
  /* RFC 8200 5: every IPv6 link carries 1280 octets; below that it is the outer packet that gets fragmented. */
  if (inner.ipv6 && mtu < IPV6_MTU_MIN) mtu = IPV6_MTU_MIN;
  if (segmenter_next_length(&segmenter) <= mtu) {
    put_segments(worker, sa, &segmenter);
  } else if (inner.ipv6 || ((load16(packet + IPV4_FRAGMENT) & IPV4_DONT_FRAGMENT) &&
                            !atomic_load_explicit(&connection->clear_df, memory_order_relaxed))) {
    drop_count(worker, connection, DROP_TOO_BIG, count);
    tun_too_big(worker, connection, &inner, packet, inner.length, mtu);
  } else {
    put_in_fragments(worker, sa, &segmenter, mtu);
  }
}

/* ---- what is buffered ---- */

/* Some failed. Keeps what was sealed, in order; the rest was wiped by esp_seal and its sequence numbers stay used. */
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
  size_t count = sa_take(worker->plane, sa, out->items, out->item_count, out->payload_octets, &reason);
  if (count < out->item_count) drop_count(worker, sa->connection, reason, out->item_count - count);
  if (count > 0) {
    burst_count(&worker->counters.out, count);
    if (esp_seal(worker->esp, sa->key, out->items, count) < count) count = keep_sealed(worker, count);
    /* Sealing took its time, and who was stopped meanwhile may not be the one who sends any more. */
    if (!sa_may_send(worker->plane, sa)) {
      drop_count(worker, sa->connection, DROP_NOT_ACTIVE, count);
      count = 0;
    }
  }
  stage_ended(worker, STAGE_SEAL);
  if (sa->encapsulate)
    count = gather_runs(out, count, atomic_load_explicit(&worker->plane->gso_segments, memory_order_relaxed));
  else
    single_runs(out, count); /* Linux has no segmentation for protocol 50 */
  udp_send_runs(worker, sa, out->runs, count);
  stage_ended(worker, STAGE_SEND);
  out->sa = NULL;
  out->used = out->item_count = out->payload_octets = 0;
}
