/* Two planes of two workers, packets from two hosts at once, and a control thread that never rests: rekeys, moved
 * peers, connections and sockets that come and go. For ThreadSanitizer and AddressSanitizer, and by itself: no packet
 * arrives twice, none is damaged, none goes astray.
 *
 *    sender --> left.host[0], left.host[1] --> left == loopback ==> right --> right.host[0], [1] --> reader
 */
#include <pthread.h>

#include "plane.h"

enum { SPI_FIRST = 0x10000, OTHER = 8, IDS = 1 << 20, PAYLOAD = 64, RUN_MS = 1500 };

static struct site left, right;
static atomic_bool done;
static _Atomic uint32_t next_id, received, duplicated, damaged;
static _Atomic uint8_t arrived[IDS];

static size_t numbered(uint8_t *out, uint32_t id) {
  struct recipe recipe = {.protocol = P_UDP, .payload = PAYLOAD, .tos = (uint8_t)(id % 3)};
  size_t length = build(out, &recipe);
  put32(out + 28, id);
  put16(out + 26, 0); /* RFC 768: no checksum, so no two are merged */
  return length;
}

static void *send_from(void *argument) {
  int host = left.host[*(const int *)argument];
  uint8_t packet[sizeof(struct virtio_net_hdr_v1) + 200] = {0};
  while (!atomic_load(&done)) {
    uint32_t id = atomic_fetch_add(&next_id, 1);
    if (id >= IDS) break;
    size_t length = numbered(packet + VNET_OCTETS, id);
    if (send(host, packet, VNET_OCTETS + length, MSG_DONTWAIT) < 0) usleep(200);
  }
  return NULL;
}

static void take(const uint8_t *packet, size_t length) {
  uint8_t expected[200];
  uint32_t id = length >= 32 ? get32(packet + 28) : IDS;
  if (id >= IDS || numbered(expected, id) != length || memcmp(packet, expected, length) != 0)
    atomic_fetch_add(&damaged, 1);
  else if (atomic_fetch_add(&arrived[id], 1) > 0)
    atomic_fetch_add(&duplicated, 1);
  else
    atomic_fetch_add(&received, 1);
}

static void *read_all(void *unused) {
  static uint8_t packet[70000];
  (void)unused;
  while (!atomic_load(&done)) {
    struct pollfd readable[2] = {{.fd = right.host[0], .events = POLLIN}, {.fd = right.host[1], .events = POLLIN}};
    if (poll(readable, 2, 20) <= 0) continue;
    for (int i = 0; i < 2; i++) {
      ssize_t got;
      while ((got = recv(right.host[i], packet, sizeof packet, MSG_DONTWAIT)) > (ssize_t)VNET_OCTETS)
        take(packet + VNET_OCTETS, (size_t)got - VNET_OCTETS);
    }
  }
  return NULL;
}

static void rekey(uint32_t generation) {
  uint32_t spi = SPI_FIRST + generation;
  struct sa_request in = sa_like(&right, true, spi, generation % 2 ? &plane_gcm : &plane_cbc, &left.local);
  struct endpoint remote = endpoint_of(right.udp[generation % 2]);
  struct sa_request out = sa_like(&left, false, spi, &in.suite, &remote);
  in.limits.hard_packets = out.limits.soft_packets = 100000;
  out.socket = left.udp[generation / 2 % 2];
  check_fault(sa_add(right.plane, &in));
  check_fault(sa_add(left.plane, &out));
  check_fault(policies_replace(left.plane, CONNECTION, &spi, 1));
  if (generation == 0) return;
  check_fault(sa_remove(left.plane, false, CONNECTION, spi - 1));
  if (generation > 1) check_fault(sa_remove(right.plane, true, CONNECTION, spi - 2));
}

static void look_around(struct site *site) {
  struct sa_statistics *rows;
  struct drop_row *drops;
  struct worker_statistics workers[SITE_WORKERS];
  struct event events[16];
  size_t count;
  check_fault(sa_statistics(site->plane, &rows, &count));
  free(rows);
  check_fault(dataplane_drops(site->plane, &drops, &count));
  free(drops);
  check_fault(dataplane_worker_statistics(site->plane, workers));
  events_drain(site->plane, events, 16);
  for (struct punt *punt = punts_drain(site->plane), *next; punt; punt = next) {
    next = punt->next;
    free(punt);
  }
}

static void disturb(uint32_t generation, int other_tun[2]) {
  static const uint8_t ike[20] = {0, 0, 0, 0, 'I'};
  uint32_t spi = SPI_FIRST + generation;
  struct endpoint moved = endpoint_of(right.udp[(generation + 1) % 2]);
  check_fault(sa_move(left.plane, CONNECTION, spi, &moved, NULL, -1));
  check_fault(sa_grant(left.plane, CONNECTION, spi, 1000000));
  check_fault(
      connection_update(left.plane, CONNECTION,
                        &(struct passage){1400 - generation % 2, 1200, 1180, generation % 65 - 1, generation & 1}));
  check_fault(connection_add(right.plane, OTHER, other_tun, 2, 1400));
  struct sa_request in = sa_like(&right, true, 0x9000, &plane_gcm, &left.local);
  in.connection = OTHER;
  check_fault(sa_add(right.plane, &in));
  datagram_send(left.udp[0], &moved, ike, sizeof ike, 0, 0);
  check_fault(connection_remove(right.plane, OTHER));
  if (generation % 4 == 0) {
    check_fault(socket_remove(right.plane, right.udp[1]));
    check_fault(socket_add(right.plane, 1, right.udp[1]));
    check_fault(connection_reopen(right.plane, CONNECTION));
  }
  look_around(&left);
  look_around(&right);
}

static void nothing_breaks_while_everything_changes(void) {
  pthread_t senders[2], reader;
  static const int queues[2] = {0, 1};
  int other[2][2], other_tun[2];
  site_open(&left, 2, AF_INET, ESP_ENGINE_AUTO);
  site_open(&right, 2, AF_INET, ESP_ENGINE_AUTO);
  for (int i = 0; i < 2; i++) {
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, other[i]) == 0);
    other_tun[i] = other[i][1];
  }
  rekey(0);
  for (int i = 0; i < 2; i++)
    CHECK(pthread_create(&senders[i], NULL, send_from, (void *)(uintptr_t)&queues[i]) == 0);
  CHECK(pthread_create(&reader, NULL, read_all, NULL) == 0);
  uint64_t end = now_ns() + RUN_MS * UINT64_C(1000000);
  uint32_t generation = 0;
  while (now_ns() < end) {
    disturb(generation, other_tun);
    rekey(++generation);
    usleep(1000);
  }
  atomic_store(&done, true);
  for (int i = 0; i < 2; i++)
    pthread_join(senders[i], NULL);
  pthread_join(reader, NULL);
  printf("   %u generations, %u sent, %u received\n", generation, atomic_load(&next_id), atomic_load(&received));
  CHECK(generation > 3 && atomic_load(&received) > 2000);
  CHECK(atomic_load(&duplicated) == 0 && atomic_load(&damaged) == 0);
  CHECK(site_drops(&right, CONNECTION, DROP_INTEGRITY) == 0 && site_drops(&right, CONNECTION, DROP_BAD_TRAILER) == 0);
  CHECK(site_drops(&right, CONNECTION, DROP_INNER_MALFORMED) == 0);
  site_close(&left);
  site_close(&right);
  for (int i = 0; i < 4; i++)
    close(other[i / 2][i % 2]);
}

int main(void) {
  RUN(nothing_breaks_while_everything_changes);
  return 0;
}
