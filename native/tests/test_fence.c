/* The end of a lease while a burst is in a worker's hands: sealed, waiting for a full socket, or in the system call. */
#include <errno.h>

#include "plane.h"

enum { SPI_OUT = 0x5005, SEGMENTS = 50, SEGMENT = 400 };

static struct site site;
static struct peer peer;

/* Link with --wrap=esp_seal, poll, sendmmsg, sendmsg. When the fence comes, and what else the kernel does. */
static atomic_bool ends_while_sealing, ends_while_waiting;
static atomic_bool full;           /* no datagram is taken */
static atomic_bool refused_whole;  /* no run is taken */
static atomic_bool held, is_there; /* a worker is kept in the system call */
static atomic_uint datagrams_tried;

/* As a lease ends: by time, while nobody calls anything. */
static void lease_ends(void) {
  atomic_store(&site.plane->fence_ns, 1);
}

size_t __real_esp_seal(struct esp_thread *thread, const struct esp_key *key, struct esp_seal_item *items, size_t count);
size_t __wrap_esp_seal(struct esp_thread *thread, const struct esp_key *key, struct esp_seal_item *items, size_t count);
size_t __wrap_esp_seal(struct esp_thread *thread, const struct esp_key *key, struct esp_seal_item *items,
                       size_t count) {
  size_t sealed = __real_esp_seal(thread, key, items, count);
  if (ends_while_sealing) lease_ends();
  return sealed;
}

int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout) {
  if (fds->events != POLLOUT) return __real_poll(fds, count, timeout);
  if (ends_while_waiting) lease_ends();
  full = false; /* so that only the fence is in the way */
  return 1;
}

int __real_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
  is_there = true;
  while (held)
    usleep(1000);
  if (refused_whole || full) {
    errno = refused_whole ? EIO : EAGAIN;
    return -1;
  }
  return __real_sendmmsg(fd, messages, count, flags);
}

/* Every tenth datagram finds the socket full. */
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags) {
  if (fd != site.host[0] && ++datagrams_tried % 10 == 0) {
    errno = EAGAIN;
    return -1;
  }
  return __real_sendmsg(fd, message, flags);
}

static void open_both(bool fenced) {
  uint32_t spi = SPI_OUT;
  site_open(&site, 1, AF_INET, ESP_ENGINE_AUTO);
  peer_open(&peer, AF_INET, &plane_gcm, SPI_OUT);
  struct sa_request request = sa_like(&site, false, SPI_OUT, &plane_gcm, &peer.local);
  request.fenced = fenced;
  check_fault(sa_add(site.plane, &request));
  check_fault(policies_replace(site.plane, CONNECTION, &spi, 1));
  check_fault(sa_grant(site.plane, CONNECTION, SPI_OUT, 1000));
  fence_move(site.plane, UINT64_MAX);
  ends_while_sealing = ends_while_waiting = full = refused_whole = held = is_there = false;
  datagrams_tried = 0;
}

static void close_both(void) {
  peer_close(&peer);
  site_close(&site);
}

static void send_burst(void) {
  host_send_super(&site, SEGMENTS, SEGMENT);
}

/* What came at the peer, the first with number `from`, and nothing more. */
static void expect_at_peer(uint32_t from, uint32_t count) {
  uint8_t datagram[2000];
  for (uint32_t i = 0; i < count; i++) {
    CHECK(next_datagram(peer.socket, datagram, sizeof datagram, WAIT_MS) > 0);
    CHECK(get32(datagram + 4) == from + i);
  }
  CHECK(next_datagram(peer.socket, datagram, sizeof datagram, 30) < 0);
}

static void what_was_sealed_too_late_stays_here(void) {
  open_both(true);
  send_burst();
  expect_at_peer(1, SEGMENTS);
  ends_while_sealing = true;
  send_burst();
  expect_drops(&site, CONNECTION, DROP_NOT_ACTIVE, SEGMENTS);
  expect_at_peer(0, 0);
  /* Its numbers are used up: they were sealed with. */
  ends_while_sealing = false;
  fence_move(site.plane, UINT64_MAX);
  send_burst();
  expect_at_peer(2 * SEGMENTS + 1, SEGMENTS);
  close_both();
}

static void what_waited_too_long_stays_here(void) {
  open_both(true);
  full = ends_while_waiting = true;
  send_burst();
  expect_drops(&site, CONNECTION, DROP_NOT_ACTIVE, SEGMENTS);
  expect_at_peer(0, 0);
  close_both();
}

/* Sent one by one: nine have left when the tenth has to wait. */
static void of_a_run_sent_singly_the_rest_stays_here(void) {
  open_both(true);
  refused_whole = ends_while_waiting = true;
  send_burst();
  expect_drops(&site, CONNECTION, DROP_NOT_ACTIVE, SEGMENTS - 9);
  expect_at_peer(1, 9);
  CHECK(site_drops(&site, CONNECTION, DROP_SEND_FAILED) == 0);
  close_both();
}

static void an_sa_of_one_gateway_knows_no_fence(void) {
  open_both(false);
  ends_while_sealing = ends_while_waiting = full = true;
  send_burst();
  expect_at_peer(1, SEGMENTS);
  refused_whole = true;
  send_burst();
  expect_at_peer(SEGMENTS + 1, SEGMENTS);
  CHECK(site_drops(&site, CONNECTION, DROP_NOT_ACTIVE) == 0);
  close_both();
}

static void *moves_back(void *returned) {
  fence_move(site.plane, 0);
  atomic_store((atomic_bool *)returned, true);
  return NULL;
}

/* Who moves it back gives the address away next. */
static void a_fence_moved_back_waits_for_who_sends(void) {
  atomic_bool returned = false;
  pthread_t thread;
  open_both(true);
  held = true;
  send_burst();
  for (int i = 0; i < WAIT_MS && !is_there; i++)
    usleep(1000);
  CHECK(is_there);
  fence_move(site.plane, UINT64_MAX); /* forward it waits for nobody */
  CHECK(pthread_create(&thread, NULL, moves_back, &returned) == 0);
  usleep(50000);
  CHECK(!returned && site.plane->fence_ns == 0); /* in force at once */
  held = false;
  CHECK(pthread_join(thread, NULL) == 0 && returned);
  expect_at_peer(1, SEGMENTS);
  fence_move(site.plane, UINT64_MAX);
  fence_move(site.plane, 0); /* nobody works: at once */
  dataplane_halt(site.plane);
  fence_move(site.plane, UINT64_MAX);
  fence_move(site.plane, 0);
  dataplane_stop(site.plane);
  fence_move(site.plane, UINT64_MAX);
  fence_move(site.plane, 0);
  close_both();
}

int main(void) {
  RUN(what_was_sealed_too_late_stays_here);
  RUN(what_waited_too_long_stays_here);
  RUN(of_a_run_sent_singly_the_rest_stays_here);
  RUN(an_sa_of_one_gateway_knows_no_fence);
  RUN(a_fence_moved_back_waits_for_who_sends);
  return 0;
}
