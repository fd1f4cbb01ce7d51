/* Packets read to the place where they will be sealed: by a worker that sends on several SAs with headers of different
 * lengths, whose buffer fills in between, and between super-packets, fragments and partial checksums. What leaves is,
 * packet by packet and in order, what the segmenter makes of a copy that stands alone.
 */
#include "outbound.c"

#include "plane.h"

enum { SPI_GCM = 0x4001, SPI_CBC = 0x4002, BATCHES = 300, EXPECTED_MAX = 1 << 16, PAYLOAD_MAX = 40000 };

static struct site site;
static struct peer gcm, cbc;
/* What is expected of each SA, one packet behind the other. */
struct expected {
  struct peer *peer;
  uint32_t spi;
  uint64_t sequence;
  size_t first, count, lengths[EXPECTED_MAX];
  uint8_t *packets[EXPECTED_MAX];
};
static struct expected queues[2] = {{.peer = &gcm, .spi = SPI_GCM}, {.peer = &cbc, .spi = SPI_CBC}};

void __wrap_udp_send_runs(struct worker *worker, const struct sa *sa, const struct run *runs, size_t count);
void __wrap_udp_send_runs(struct worker *worker, const struct sa *sa, const struct run *runs, size_t count) {
  struct expected *queue = &queues[sa->spi == SPI_CBC];
  (void)worker;
  for (size_t i = 0; i < count; i++) {
    for (size_t offset = 0; offset < runs[i].length; offset += runs[i].segment_size) {
      size_t left = runs[i].length - offset;
      struct esp_open_item item =
          peer_unseal(queue->peer, runs[i].data + offset, left < runs[i].segment_size ? left : runs[i].segment_size, 0);
      CHECK(item.result == ESP_OK && item.sequence == ++queue->sequence && queue->first < queue->count);
      CHECK(item.payload_length == queue->lengths[queue->first]);
      CHECK(memcmp(item.payload, queue->packets[queue->first], item.payload_length) == 0);
      free(queue->packets[queue->first++]);
    }
  }
}

/* To 10.0.0.0/9 by one, to the upper half and IPv6 by the other. */
static void scene(void) {
  struct selector low = any_selectors[0], high[2] = {any_selectors[0], any_selectors[1]};
  const uint32_t spis[2] = {SPI_GCM, SPI_CBC};
  low.remote_last.low = 0x7fffffff;
  high[0].remote_first.low = 0x80000000;
  site_open(&site, 1, AF_INET, ESP_ENGINE_AUTO);
  peer_open(&gcm, AF_INET, &plane_gcm, SPI_GCM);
  peer_open(&cbc, AF_INET, &plane_cbc, SPI_CBC);
  struct sa_request first = sa_like(&site, false, SPI_GCM, &plane_gcm, &gcm.local);
  struct sa_request second = sa_like(&site, false, SPI_CBC, &plane_cbc, &cbc.local);
  first.selectors = &low;
  first.selector_count = 1;
  second.selectors = high;
  check_fault(sa_add(site.plane, &first));
  check_fault(sa_add(site.plane, &second));
  check_fault(policies_replace(site.plane, CONNECTION, spis, 2));
}

static void expect(struct expected *queue, const struct virtio_net_hdr_v1 *vnet, const uint8_t *packet, size_t length) {
  struct segmenter segmenter;
  CHECK(segmenter_begin(&segmenter, vnet, packet, length) == SEGMENT_OK);
  for (size_t octets; (octets = segmenter_next_length(&segmenter)) != 0;) {
    CHECK(queue->count < EXPECTED_MAX);
    uint8_t *copy = malloc(octets);
    CHECK(copy && segmenter_next(&segmenter, copy) == octets);
    queue->lengths[queue->count] = octets;
    queue->packets[queue->count++] = copy;
  }
}

/* `both`: to either SA; else to one of them, so that the buffer fills. */
static void send_one(int fd, bool both) {
  static uint8_t packet[VNET_OCTETS + 65536];
  static const size_t sizes[] = {0, 1, 13, 400, 1000, 1398, 1400, 2000, 2008, 2020, 2047, 2048, 2049, 8900};
  bool super = random_below(4) == 0, partial = super || random_below(3) == 0;
  struct recipe recipe = {.ipv6 = random_below(3) == 0,
                          .protocol = random_below(2) ? P_UDP : P_TCP,
                          .seed = (uint8_t)random64(),
                          .tos = (uint8_t)(random_below(3) << 2),
                          .payload = sizes[random_below(sizeof sizes / sizeof sizes[0])]};
  if (super && random_below(2)) recipe.payload = random_below(PAYLOAD_MAX);
  uint8_t *inner = packet + VNET_OCTETS;
  size_t length = build(inner, &recipe);
  bool upper = recipe.ipv6 || !both || random_below(2);
  if (!recipe.ipv6) {
    inner[16] = upper ? 0xc0 : 0x0a;
    put16(inner + 10, 0);
    put16(inner + 10, (uint16_t)~slow_sum(0, inner, 20));
    size_t l4 = length - 20, field = 20 + (recipe.protocol == P_UDP ? 6 : 16);
    put16(inner + field, 0);
    put16(inner + field, (uint16_t)~slow_sum(slow_pseudo(inner, recipe.protocol, l4), inner + 20, l4));
  }
  if (partial) make_partial(inner, length, recipe.protocol);
  struct virtio_net_hdr_v1 vnet = {.flags = partial ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0,
                                   .csum_start = (uint16_t)l3_of(inner),
                                   .csum_offset = recipe.protocol == P_UDP ? 6 : 16,
                                   .gso_size = (uint16_t)(super ? 200 + random_below(8800) : 0)};
  if (super)
    vnet.gso_type = recipe.protocol == P_UDP ? VIRTIO_NET_HDR_GSO_UDP_L4
                    : recipe.ipv6            ? VIRTIO_NET_HDR_GSO_TCPV6
                                             : VIRTIO_NET_HDR_GSO_TCPV4;
  memcpy(packet, &vnet, sizeof vnet);
  expect(&queues[upper], &vnet, inner, length);
  CHECK(send(fd, packet, VNET_OCTETS + length, 0) == (ssize_t)(VNET_OCTETS + length));
}

/* A queue that only this test looks at, so that the worker's own thread stays asleep. */
static void what_is_read_in_place_leaves_unharmed(void) {
  struct connection *connection = connection_find(site.plane, CONNECTION);
  struct worker *worker = &site.plane->workers[0];
  int ends[2], room = 16 << 20;
  /* Datagram sockets take ten at once. */
  CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  CHECK(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) == 0);
  struct source queue = {.kind = SOURCE_TUN, .fd = ends[1], .worker = worker, .connection = connection};
  atomic_store(&connection->mtu, 9100);
  for (int batch = 0; batch < BATCHES; batch++) {
    for (size_t i = 0, some = 1 + random_below(100); i < some; i++)
      send_one(ends[0], batch % 2);
    for (int turn = 0; turn < 100 && (queues[0].first < queues[0].count || queues[1].first < queues[1].count); turn++)
      CHECK(outbound_turn(worker, &queue));
    for (size_t i = 0; i < 2; i++) {
      CHECK(queues[i].first == queues[i].count);
      queues[i].first = queues[i].count = 0;
    }
  }
  CHECK(queues[0].sequence > BATCHES && queues[1].sequence > BATCHES);
  close(ends[0]);
  close(ends[1]);
}

enum { MANY_WORKERS = 3, IDENTIFICATIONS = 65536 };

/* RFC 6864 4.2: the same two hosts may be served by any of them. */
static void no_two_workers_give_the_same_identification(void) {
  static uint8_t giver[IDENTIFICATIONS];
  struct dataplane *plane;
  check_fault(dataplane_start(MANY_WORKERS, ESP_ENGINE_LIBCRYPTO, &plane));
  memset(giver, 0, sizeof giver);
  for (uint8_t w = 0; w < MANY_WORKERS; w++) {
    for (int i = 0; i < 2 * IDENTIFICATIONS; i++) {
      uint8_t *seen = &giver[fresh_ip_id(&plane->workers[w])];
      CHECK(*seen == 0 || *seen == w + 1);
      /* As late as can be: not before each of its own came once. */
      CHECK(i >= IDENTIFICATIONS / MANY_WORKERS || *seen == 0);
      *seen = (uint8_t)(w + 1);
    }
  }
  dataplane_stop(plane);
  dataplane_free(plane);
}

int main(void) {
  RUN(no_two_workers_give_the_same_identification);
  scene();
  RUN(what_is_read_in_place_leaves_unharmed);
  site_close(&site);
  peer_close(&gcm);
  peer_close(&cbc);
  return 0;
}
