/* What a kernel refuses: runs of too many segments, runs for other reasons, and a TUN queue that fails for good. */
#include <errno.h>

#include "plane.h"

enum { SPI_OUT = 0x3003, ROOM = 70000, SEGMENTS = 100, SEGMENT = 500 };

/* Link with --wrap=sendmsg, sendmmsg, readv. This kernel takes runs of up to so many segments. */
static atomic_uint segments_taken;
static atomic_int read_error;
static atomic_uint runs_sent, runs_refused;

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
  if (read_error == 0) return __real_readv(fd, iov, count);
  errno = read_error;
  return -1;
}

static struct site site;
static struct peer peer;

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
  static uint8_t packet[ROOM], sealed[2000];
  struct virtio_net_hdr_v1 vnet = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                   .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                   .hdr_len = 40,
                                   .gso_size = SEGMENT,
                                   .csum_start = 20,
                                   .csum_offset = 16};
  struct recipe recipe = {.payload = SEGMENTS * SEGMENT};
  size_t octets = build(packet, &recipe);
  int tos;
  make_partial(packet, octets, P_TCP);
  host_send(&site, &vnet, packet, octets);
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
  host_send(&site, NULL, packet, octets);
  expect_drops(&site, CONNECTION, DROP_TUN_READ_FAILED, 1);
  read_error = 0;
  CHECK(datagram_receive(peer.socket, packet, ROOM, &tos, 50) < 0);
  check_fault(connection_reopen(site.plane, CONNECTION));
  CHECK(datagram_receive(peer.socket, packet, ROOM, &tos, WAIT_MS) > 0);
  CHECK(site_drops(&site, CONNECTION, DROP_TUN_READ_FAILED) == 1);
  close_both();
}

int main(void) {
  RUN(a_kernel_that_takes_fewer_is_asked_once);
  RUN(a_refusal_for_another_reason_is_not_remembered);
  RUN(a_queue_that_fails_is_said);
  return 0;
}
