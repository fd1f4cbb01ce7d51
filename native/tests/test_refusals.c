/* What a kernel refuses: runs of too many segments, runs for other reasons, datagrams behind a full socket; packets of
 * a TUN queue, and a queue that fails for good. */
#include <errno.h>
#include <limits.h>

#include "plane.h"

enum { SPI_OUT = 0x3003, ROOM = 70000, SEGMENTS = 100, SEGMENT = 500 };

static struct site site;
static struct peer peer;

/* Link with --wrap=sendmsg, sendmmsg, readv, poll. This kernel takes runs of up to so many segments. */
static atomic_uint segments_taken;
static atomic_int read_error;
static atomic_uint read_errors; /* so many, then no more */
static atomic_uint runs_sent, runs_refused;
static atomic_bool full; /* datagrams get EAGAIN; then what was asked of it */
static atomic_uint datagrams_refused, waited_ms;

static bool taken(const struct msghdr *message) {
  uint16_t size = 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)message, c))
    if (c->cmsg_level == IPPROTO_UDP) memcpy(&size, CMSG_DATA(c), sizeof size);
  if (size == 0) return true;
  bool fits = (message->msg_iov->iov_len + size - 1) / size <= segments_taken;
  atomic_fetch_add(fits ? &runs_sent : &runs_refused, 1);
  if (!fits) errno = EINVAL;
  return fits;
}

ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags) {
  if (full && fd != site.host[0]) {
    atomic_fetch_add(&datagrams_refused, 1);
    errno = EAGAIN;
    return -1;
  }
  return taken(message) ? __real_sendmsg(fd, message, flags) : -1;
}

int __real_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
  (void)count;
  return taken(&messages->msg_hdr) ? __real_sendmmsg(fd, messages, 1, flags) : -1;
}

ssize_t __real_readv(int fd, const struct iovec *iov, int count);
ssize_t __wrap_readv(int fd, const struct iovec *iov, int count);
ssize_t __wrap_readv(int fd, const struct iovec *iov, int count) {
  if (read_error == 0 || read_errors == 0) return __real_readv(fd, iov, count);
  atomic_fetch_sub(&read_errors, 1);
  errno = read_error;
  return -1;
}

/* The full socket never becomes writable. */
int __real_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t count, int timeout) {
  if (fds->events != POLLOUT) return __real_poll(fds, count, timeout);
  atomic_fetch_add(&waited_ms, (unsigned)timeout);
  usleep((useconds_t)timeout * 1000);
  return 0;
}

static void open_both(unsigned segments) {
  site_open(&site, 1, AF_INET, ESP_ENGINE_AUTO);
  peer_open(&peer, AF_INET, &plane_gcm, SPI_OUT);
  site_out(&site, SPI_OUT, &plane_gcm, &peer.local);
  segments_taken = segments;
  runs_sent = runs_refused = 0;
}

static void close_both(void) {
  peer_close(&peer);
  site_close(&site);
}

/* One super-packet; every segment must arrive, in order. */
static void segments_arrive(uint64_t before) {
  uint8_t sealed[2000];
  int tos;
  host_send_super(&site, SEGMENTS, SEGMENT);
  for (uint32_t i = 1; i <= SEGMENTS; i++) {
    CHECK(datagram_receive(peer.socket, sealed, sizeof sealed, &tos, WAIT_MS) > SEGMENT);
    CHECK(get32(sealed + 4) == before + i);
  }
  CHECK(site_drops(&site, CONNECTION, DROP_SEND_FAILED) == 0);
}

static void a_kernel_that_takes_fewer_is_asked_once(void) {
  open_both(64);
  segments_arrive(0);
  CHECK(runs_refused == 1 && site.plane->gso_segments == 64);
  segments_arrive(SEGMENTS);
  CHECK(runs_refused == 1 && runs_sent >= 3);
  close_both();
}

/* As when the path's MTU became less than a segment: once that is over, runs are as long as before. */
static void a_refusal_for_another_reason_is_not_remembered(void) {
  open_both(0);
  segments_arrive(0);
  CHECK(runs_sent == 0 && site.plane->gso_segments == GSO_SEGMENTS_MAX);
  segments_taken = GSO_SEGMENTS_MAX;
  segments_arrive(SEGMENTS);
  CHECK(runs_sent == 1);
  close_both();
}

static void a_queue_that_fails_is_said(void) {
  static uint8_t packet[ROOM];
  struct recipe recipe = {.protocol = P_UDP, .payload = 20};
  size_t octets = build(packet, &recipe);
  int tos;
  open_both(GSO_SEGMENTS_MAX);
  read_error = EBADFD;
  read_errors = UINT_MAX;
  host_send(&site, NULL, packet, octets);
  expect_drops(&site, CONNECTION, DROP_TUN_READ_FAILED, 1);
  read_error = 0;
  CHECK(datagram_receive(peer.socket, packet, ROOM, &tos, 50) < 0);
  check_fault(connection_reopen(site.plane, CONNECTION));
  CHECK(datagram_receive(peer.socket, packet, ROOM, &tos, WAIT_MS) > 0);
  CHECK(site_drops(&site, CONNECTION, DROP_TUN_READ_FAILED) == 1);
  close_both();
}

/* As with a segmentation the kernel has no word for: it took the packet, and the next one is a good one. */
static void packets_that_cannot_be_read_are_passed_over(void) {
  static uint8_t packet[ROOM];
  struct recipe recipe = {.protocol = P_UDP, .payload = 20};
  int tos;
  open_both(GSO_SEGMENTS_MAX);
  read_errors = 20;
  read_error = EINVAL;
  for (uint64_t i = 0; i < 3; i++) {
    host_send(&site, NULL, packet, build(packet, &recipe));
    CHECK(datagram_receive(peer.socket, packet, ROOM, &tos, WAIT_MS) > 0);
  }
  CHECK(site_drops(&site, CONNECTION, DROP_TUN_PACKET_LOST) == 20);
  CHECK(site_drops(&site, CONNECTION, DROP_TUN_READ_FAILED) == 0);
  read_error = 0;
  close_both();
}

/* An error that takes no packet out of the queue leaves the worker to its other queues and sockets. */
static void a_lasting_error_of_a_queue_is_its_own(void) {
  static uint8_t packet[ROOM];
  struct recipe recipe = {.protocol = P_UDP, .payload = 20};
  uint8_t keepalive = 0xff;
  int tos;
  open_both(GSO_SEGMENTS_MAX);
  read_errors = UINT_MAX;
  read_error = ENOMEM;
  host_send(&site, NULL, packet, build(packet, &recipe));
  for (uint64_t i = 1; i <= 10; i++) {
    datagram_send(peer.socket, &site.local, &keepalive, 1, 0, 0);
    expect_drops(&site, 0, DROP_KEEPALIVE, i);
  }
  read_error = 0;
  CHECK(datagram_receive(peer.socket, packet, ROOM, &tos, WAIT_MS) > 0);
  CHECK(site_drops(&site, CONNECTION, DROP_TUN_PACKET_LOST) > 0);
  close_both();
}

/* Other tunnels are behind it: all waits of a burst together are as long as was meant for one datagram. */
static void a_full_socket_delays_a_burst_once(void) {
  open_both(0);
  full = true;
  waited_ms = datagrams_refused = 0;
  host_send_super(&site, SEGMENTS, SEGMENT);
  expect_drops(&site, CONNECTION, DROP_SEND_FAILED, SEGMENTS);
  printf("   waited %u ms, %u tries\n", waited_ms, datagrams_refused);
  CHECK(waited_ms > 0 && waited_ms <= 16);
  CHECK(datagrams_refused >= SEGMENTS && datagrams_refused <= SEGMENTS + 10);
  full = false;
  close_both();
}

int main(void) {
  RUN(a_kernel_that_takes_fewer_is_asked_once);
  RUN(a_refusal_for_another_reason_is_not_remembered);
  RUN(a_queue_that_fails_is_said);
  RUN(packets_that_cannot_be_read_are_passed_over);
  RUN(a_lasting_error_of_a_queue_is_its_own);
  RUN(a_full_socket_delays_a_burst_once);
  return 0;
}
