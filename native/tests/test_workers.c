/* Where workers run, how they wait, and what they count. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "plane.h"

enum { SPI_OUT = 0x2222, SPI_IN = 0x3333, PAYLOAD = 64, PACKET = 20 + 8 + PAYLOAD };

/* Link with --wrap=pthread_getcpuclockid: how often threads are asked. */
static atomic_uint clocks_asked;
int __real_pthread_getcpuclockid(pthread_t thread, clockid_t *clock);
int __wrap_pthread_getcpuclockid(pthread_t thread, clockid_t *clock);
int __wrap_pthread_getcpuclockid(pthread_t thread, clockid_t *clock) {
  atomic_fetch_add(&clocks_asked, 1);
  return __real_pthread_getcpuclockid(thread, clock);
}

static struct site site;
static struct peer peer;

static void scene_open(size_t workers, const struct placement *placement) {
  site_open_placed(&site, workers, AF_INET, ESP_ENGINE_AUTO, placement);
  peer_open(&peer, AF_INET, &plane_gcm, SPI_IN);
  site_out(&site, SPI_OUT, &plane_gcm, &peer.local);
  site_in(&site, SPI_IN, &plane_gcm, &peer.local);
}

static void scene_close(void) {
  site_close(&site);
  peer_close(&peer);
}

/* Of worker 0, which has all the traffic of these tests. */
static struct worker_statistics statistics(void) {
  struct worker_statistics rows[SITE_WORKERS];
  check_fault(dataplane_worker_statistics(site.plane, rows));
  return rows[0];
}

static size_t udp_packet(uint8_t *out) {
  const struct recipe recipe = {.protocol = P_UDP, .payload = PAYLOAD};
  return build(out, &recipe);
}

static void send_out(unsigned count) {
  uint8_t packet[PACKET];
  for (unsigned i = 0; i < count; i++)
    host_send(&site, NULL, packet, udp_packet(packet));
}

/* Takes `count` ESP packets at the peer, none of which may be missing or too much. */
static void take_at_peer(unsigned count) {
  uint8_t datagram[2048];
  for (unsigned i = 0; i < count; i++)
    CHECK(next_datagram(peer.socket, datagram, sizeof datagram, WAIT_MS) > 0);
}

static uint64_t bursts(const struct burst_statistics *statistics) {
  uint64_t count = 0;
  for (int i = 0; i < BURST_BUCKETS; i++)
    count += statistics->sizes[i];
  return count;
}

/* What the sizes allow the packets to be. */
static bool sizes_agree(const struct burst_statistics *statistics) {
  uint64_t least = 0, most = 0;
  for (int i = 0; i < BURST_BUCKETS; i++) {
    most += statistics->sizes[i] << i;
    least += statistics->sizes[i] * (i < 2 ? (uint64_t)i + 1 : (UINT64_C(1) << (i - 1)) + 1);
  }
  return least <= statistics->packets && statistics->packets <= most;
}

/* The first `count` CPUs this process may run on; false when there are fewer. */
static bool allowed_cpus(unsigned *cpus, unsigned count) {
  cpu_set_t set;
  unsigned found = 0;
  CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
  for (unsigned cpu = 0; cpu < CPU_SETSIZE && found < count; cpu++)
    if (CPU_ISSET(cpu, &set)) cpus[found++] = cpu;
  return found == count;
}

static void workers_run_where_they_are_told(void) {
  struct placement placement = {.cpu_count = SITE_WORKERS};
  if (!allowed_cpus(placement.cpus, SITE_WORKERS)) return;
  scene_open(SITE_WORKERS, &placement);
  for (unsigned i = 0; i < SITE_WORKERS; i++) {
    cpu_set_t set;
    CHECK(pthread_getaffinity_np(site.plane->workers[i].thread, sizeof set, &set) == 0);
    CHECK(CPU_COUNT(&set) == 1 && CPU_ISSET(placement.cpus[i], &set));
  }
  send_out(1);
  take_at_peer(1);
  scene_close();
}

static void workers_are_free_unless_told(void) {
  const struct placement anywhere = {0};
  cpu_set_t ours, theirs;
  scene_open(1, &anywhere);
  CHECK(sched_getaffinity(0, sizeof ours, &ours) == 0);
  CHECK(pthread_getaffinity_np(site.plane->workers[0].thread, sizeof theirs, &theirs) == 0);
  CHECK(CPU_EQUAL(&ours, &theirs));
  scene_close();
}

static void a_placement_that_cannot_be_is_refused(void) {
  struct dataplane *plane;
  const struct placement nowhere = {.cpu_count = 1, .cpus = {CPU_SETSIZE - 1}};
  const struct placement beyond = {.cpu_count = 1, .cpus = {UINT32_MAX}};
  const struct placement second_nowhere = {.cpu_count = 2, .cpus = {0, CPU_SETSIZE - 1}};
  const struct placement too_few = {.cpu_count = 1};
  const struct placement too_long = {.busy_poll_us = BUSY_POLL_US_MAX + 1};
  CHECK(dataplane_start_placed(1, ESP_ENGINE_AUTO, &nowhere, &plane).os_error == EINVAL && !plane);
  CHECK(dataplane_start_placed(1, ESP_ENGINE_AUTO, &beyond, &plane).os_error == EINVAL && !plane);
  CHECK(dataplane_start_placed(2, ESP_ENGINE_AUTO, &second_nowhere, &plane).os_error == EINVAL && !plane);
  CHECK(dataplane_start_placed(2, ESP_ENGINE_AUTO, &too_few, &plane).sentence && !plane);
  CHECK(dataplane_start_placed(1, ESP_ENGINE_AUTO, &too_long, &plane).sentence && !plane);
}

static void a_busy_poll_ends(void) {
  const struct placement busy = {.busy_poll_us = BUSY_POLL_US_MAX};
  scene_open(1, &busy);
  CHECK(statistics().empty_polls == 0); /* it begins with work, not with the start */
  send_out(1);
  take_at_peer(1);
  for (int i = 0; i < WAIT_MS && statistics().empty_polls == 0; i++)
    usleep(100);
  CHECK(statistics().empty_polls > 0);
  usleep(10 * BUSY_POLL_US_MAX);
  struct worker_statistics before = statistics();
  usleep(20 * BUSY_POLL_US_MAX);
  struct worker_statistics after = statistics();
  CHECK(after.empty_polls == before.empty_polls && after.idle);
  CHECK(after.cpu_ns - before.cpu_ns < UINT64_C(5) * 1000 * BUSY_POLL_US_MAX / 10);
  scene_close();
}

static void a_busy_poll_finds_what_comes_and_lets_control_through(void) {
  const struct placement busy = {.busy_poll_us = BUSY_POLL_US_MAX};
  scene_open(SITE_WORKERS, &busy);
  for (uint32_t i = 1; i <= 200; i++) {
    struct sa_request request = sa_like(&site, true, SPI_IN + i, &plane_gcm, &peer.local);
    send_out(1);
    check_fault(sa_add(site.plane, &request));
    check_fault(sa_remove(site.plane, true, CONNECTION, SPI_IN + i));
    take_at_peer(1);
  }
  check_fault(socket_remove(site.plane, site.udp[1]));
  check_fault(socket_add(site.plane, 1, site.udp[1]));
  CHECK(statistics().out.packets == 200 && statistics().empty_polls > 0);
  scene_close();
}

static void *hog(void *stop) {
  while (!atomic_load((atomic_bool *)stop))
    ;
  return NULL;
}

/* Where another thread wants the core a busy poll would only keep it from the packets, so it gives up at once. */
static void a_busy_poll_leaves_a_wanted_core_alone(void) {
  struct placement busy = {.cpu_count = 1, .busy_poll_us = BUSY_POLL_US_MAX};
  CHECK(allowed_cpus(busy.cpus, 1));
  scene_open(1, &busy);
  cpu_set_t set;
  pthread_t thread;
  atomic_bool stop = false;
  CPU_ZERO(&set);
  CPU_SET(busy.cpus[0], &set);
  CHECK(pthread_create(&thread, NULL, hog, &stop) == 0);
  CHECK(pthread_setaffinity_np(thread, sizeof set, &set) == 0);
  for (int i = 0; i < 200; i++) {
    send_out(1);
    take_at_peer(1);
  }
  uint64_t polls = statistics().empty_polls;
  atomic_store(&stop, true);
  pthread_join(thread, NULL);
  printf("   %llu polls\n", (unsigned long long)polls);
  CHECK(polls < 500); /* alone it is thousands; on a busy machine other processes keep the hog away now and then */
  scene_close();
}

static void without_busy_polling_nothing_is_polled(void) {
  const struct placement anywhere = {0};
  scene_open(1, &anywhere);
  send_out(20);
  take_at_peer(20);
  CHECK(statistics().empty_polls == 0);
  scene_close();
}

static void every_packet_is_counted_once(void) {
  enum { COUNT = 300 };
  const struct placement anywhere = {0};
  uint8_t packet[PACKET], sealed[2048];
  scene_open(1, &anywhere);
  for (unsigned sent = 0; sent < COUNT; sent += 10) {
    send_out(10);
    take_at_peer(10);
  }
  for (uint64_t sequence = 1; sequence <= COUNT; sequence++) {
    size_t length = peer_seal(&peer, sequence, packet, udp_packet(packet), 4, sealed);
    datagram_send(peer.socket, &site.local, sealed, length, 0, 0);
    if (sequence % 3 == 0) datagram_send(peer.socket, &site.local, sealed, length, 0, 0); /* replayed: not counted */
  }
  expect_drops(&site, CONNECTION, DROP_REPLAY, COUNT / 3);
  for (int i = 0; i < WAIT_MS && statistics().in.packets < COUNT; i++)
    usleep(1000);
  struct worker_statistics read = statistics();
  CHECK(read.out.packets == COUNT && read.in.packets == COUNT);
  CHECK(bursts(&read.out) >= COUNT / 128 && bursts(&read.out) <= COUNT && sizes_agree(&read.out));
  CHECK(bursts(&read.in) >= COUNT / 128 && bursts(&read.in) <= COUNT && sizes_agree(&read.in));
  struct sa_statistics *rows;
  size_t count;
  check_fault(sa_statistics(site.plane, &rows, &count));
  CHECK(count == 2 && rows[0].packets == COUNT && rows[1].packets == COUNT);
  free(rows);
  scene_close();
}

static void burst_sizes_have_their_places(void) {
  static const size_t sizes[] = {1, 2, 3, 4, 5, 8, 9, 16, 17, 64, 65, 128};
  static const int places[] = {0, 1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 7};
  for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
    struct burst_counters counters = {0};
    burst_count(&counters, sizes[i]);
    CHECK(counters.packets == sizes[i]);
    for (int place = 0; place < BURST_BUCKETS; place++)
      CHECK(counters.sizes[place] == (place == places[i]));
  }
}

static uint64_t all_cycles(const struct worker_statistics *read) {
  uint64_t sum = 0;
  for (int i = 0; i < STAGE_COUNT; i++)
    sum += read->cycles[i];
  return sum;
}

static void cycles_are_counted_by_stage_when_asked(bool asked) {
  const struct placement placement = {.count_cycles = asked};
  uint8_t packet[PACKET], sealed[2048], inner[2048];
  struct virtio_net_hdr_v1 vnet;
  scene_open(1, &placement);
  uint64_t begun = cycles_now();
  send_out(50);
  take_at_peer(50);
  for (uint64_t sequence = 1; sequence <= 50; sequence++) {
    size_t length = peer_seal(&peer, sequence, packet, udp_packet(packet), 4, sealed);
    datagram_send(peer.socket, &site.local, sealed, length, 0, 0);
    CHECK(host_receive(&site, &vnet, inner, sizeof inner, WAIT_MS) > 0);
  }
  /* The last turn may still be ending. */
  for (int i = 0; asked && i < WAIT_MS && statistics().cycles[STAGE_WRITE] == 0; i++)
    usleep(1000);
  struct worker_statistics read = statistics();
  uint64_t passed = cycles_now() - begun;
  for (int i = 0; i < STAGE_COUNT; i++)
    CHECK((read.cycles[i] > 0) == asked);
  CHECK(all_cycles(&read) <= passed);
  scene_close();
}

static void cycles_are_counted_when_asked(void) {
  cycles_are_counted_by_stage_when_asked(true);
}

static void cycles_are_not_counted_unasked(void) {
  cycles_are_counted_by_stage_when_asked(false);
}

/* Overflows a socket nobody reads, then gives it to a worker and takes it away again. */
static void what_sockets_lost_is_told_for_ever(void) {
  const struct placement anywhere = {0};
  int full = loopback_socket(AF_INET), small = 4096;
  uint8_t datagram[1024] = {0xff};
  struct endpoint to = endpoint_of(full);
  CHECK(setsockopt(full, SOL_SOCKET, SO_RCVBUF, &small, sizeof small) == 0);
  scene_open(1, &anywhere);
  for (int i = 0; i < 100; i++)
    datagram_send(peer.socket, &to, datagram, sizeof datagram, 0, 0);
  struct socket_backlog backlog = socket_backlog(full);
  CHECK(backlog.octets > sizeof datagram && backlog.drops > 50 && backlog.drops < 100);
  CHECK(statistics().socket_drops == 0);
  check_fault(socket_add(site.plane, 0, full));
  CHECK(statistics().socket_drops == backlog.drops);
  for (int i = 0; i < WAIT_MS && statistics().socket_queue_octets > 0; i++)
    usleep(1000);
  CHECK(statistics().socket_queue_octets == 0);
  check_fault(socket_remove(site.plane, full));
  CHECK(statistics().socket_drops == backlog.drops);
  close(full);
  scene_close();
}

/* An upgrade halts the workers while /metrics may still be read: of threads that are no more nothing is asked. */
static void what_halted_workers_used_is_kept(void) {
  const struct placement anywhere = {0};
  scene_open(1, &anywhere);
  send_out(20);
  take_at_peer(20);
  uint64_t before = statistics().cpu_ns;
  CHECK(before > 0);
  dataplane_halt(site.plane);
  clocks_asked = 0;
  uint64_t after = statistics().cpu_ns;
  CHECK(clocks_asked == 0);
  CHECK(after >= before && statistics().cpu_ns == after && statistics().out.packets == 20);
  scene_close();
}

int main(void) {
  RUN(workers_run_where_they_are_told);
  RUN(workers_are_free_unless_told);
  RUN(a_placement_that_cannot_be_is_refused);
  RUN(a_busy_poll_ends);
  RUN(a_busy_poll_finds_what_comes_and_lets_control_through);
  RUN(a_busy_poll_leaves_a_wanted_core_alone);
  RUN(without_busy_polling_nothing_is_polled);
  RUN(every_packet_is_counted_once);
  RUN(burst_sizes_have_their_places);
  RUN(cycles_are_counted_when_asked);
  RUN(cycles_are_not_counted_unasked);
  RUN(what_sockets_lost_is_told_for_ever);
  RUN(what_halted_workers_used_is_kept);
  return 0;
}
