/* A whole data plane in one process and without privileges, for the C tests: each TUN queue is a socket pair (one
 * datagram, one packet), the outer side UDP sockets on loopback. The test is the hosts behind the TUN and the ESP peer.
 *
 *    site.host[i] <-- socket pair --> queue i -- data plane -- site.udp[i] <-- loopback --> peer.socket
 *
 * Link with --wrap=ioctl: a socket pair has no TUNSETOFFLOAD.
 */
#ifndef GATEWAY_TESTS_PLANE_H
#define GATEWAY_TESTS_PLANE_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "aead.h"
#include "check.h"
#include "dataplane.h"
#include "esp.h"
#include "inner.h"
#include "packets.h"
#include "segment.h"
#include "tun.h"
#include "udp.h"

enum { SITE_WORKERS = 2, CONNECTION = 7, SITE_MTU = 1438, WAIT_MS = 3000 };

int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...) {
  (void)fd;
  (void)request;
  return 0;
}

struct site {
  struct dataplane *plane;
  size_t workers;
  int host[SITE_WORKERS], tun[SITE_WORKERS], udp[SITE_WORKERS];
  struct endpoint local;
};

static inline void check_fault(struct fault fault) {
  if (fault.sentence) fprintf(stderr, "fault: %s (%d)\n", fault.sentence, fault.os_error);
  CHECK(!fault.sentence);
}

static inline struct endpoint endpoint_of(int fd) {
  struct sockaddr_storage name;
  socklen_t length = sizeof name;
  struct endpoint endpoint;
  CHECK(getsockname(fd, (struct sockaddr *)&name, &length) == 0);
  CHECK(endpoint_from_sockaddr((struct sockaddr *)&name, &endpoint));
  return endpoint;
}

/* A UDP socket on a port of the kernel's choice. */
static inline int loopback_socket(int family) {
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0);
  if (family == AF_INET)
    CHECK(bind(fd, (struct sockaddr *)&in, sizeof in) == 0);
  else
    CHECK(bind(fd, (struct sockaddr *)&in6, sizeof in6) == 0);
  return fd;
}

static inline void site_connect(struct site *site) {
  check_fault(connection_add(site->plane, CONNECTION, site->tun, site->workers, SITE_MTU));
}

static inline void site_open_placed(struct site *site, size_t workers, int family, enum esp_engine engine,
                                    const struct placement *placement) {
  *site = (struct site){.workers = workers};
  check_fault(dataplane_start_placed((unsigned)workers, engine, placement, &site->plane));
  for (size_t i = 0; i < workers; i++) {
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, ends) == 0);
    site->host[i] = ends[0];
    site->tun[i] = ends[1];
    site->udp[i] = loopback_socket(family);
    check_fault(socket_add(site->plane, (unsigned)i, site->udp[i]));
  }
  site->local = endpoint_of(site->udp[0]);
  site_connect(site);
}

static inline void site_open(struct site *site, size_t workers, int family, enum esp_engine engine) {
  const struct placement anywhere = {0};
  site_open_placed(site, workers, family, engine, &anywhere);
}

static inline void site_close(struct site *site) {
  dataplane_stop(site->plane);
  dataplane_free(site->plane);
  for (size_t i = 0; i < site->workers; i++) {
    close(site->host[i]);
    close(site->tun[i]);
    close(site->udp[i]);
  }
}

static const uint8_t plane_key[64] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
static const struct esp_suite plane_gcm = {ESP_AES_GCM_16, ESP_INTEG_NONE, false};
static const struct esp_suite plane_gcm_esn = {ESP_AES_GCM_16, ESP_INTEG_NONE, true};
static const struct esp_suite plane_cbc = {ESP_AES_CBC, ESP_HMAC_SHA2_256_128, false};

/* Everything, both families. */
static const struct selector any_selectors[2] = {
    {.local_last = {0, UINT32_MAX},
     .remote_last = {0, UINT32_MAX},
     .local_port_last = 0xffff,
     .remote_port_last = 0xffff},
    {.local_last = {UINT64_MAX, UINT64_MAX},
     .remote_last = {UINT64_MAX, UINT64_MAX},
     .local_port_last = 0xffff,
     .remote_port_last = 0xffff,
     .ipv6 = true},
};

static inline struct sa_request sa_like(const struct site *site, bool inbound, uint32_t spi,
                                        const struct esp_suite *suite, const struct endpoint *remote) {
  bool gcm = suite->encryption == ESP_AES_GCM_16;
  return (struct sa_request){.inbound = inbound,
                             .encapsulate = true,
                             .connection = CONNECTION,
                             .spi = spi,
                             .suite = *suite,
                             .encryption_key = plane_key,
                             .integrity_key = plane_key,
                             .encryption_key_length = gcm ? 20 : 16,
                             .integrity_key_length = gcm ? 0 : 32,
                             .local = site->local,
                             .remote = *remote,
                             .selectors = any_selectors,
                             .selector_count = 2,
                             .replay_window = 4096,
                             .socket = inbound ? -1 : site->udp[0],
                             .worker = ANY_WORKER};
}

static inline void site_out(struct site *site, uint32_t spi, const struct esp_suite *suite,
                            const struct endpoint *remote) {
  struct sa_request request = sa_like(site, false, spi, suite, remote);
  check_fault(sa_add(site->plane, &request));
  check_fault(policies_replace(site->plane, CONNECTION, &spi, 1));
}

static inline void site_in(struct site *site, uint32_t spi, const struct esp_suite *suite,
                           const struct endpoint *remote) {
  struct sa_request request = sa_like(site, true, spi, suite, remote);
  check_fault(sa_add(site->plane, &request));
}

static inline uint64_t site_drops(struct site *site, uint32_t connection, enum drop_reason reason) {
  struct drop_row *rows;
  size_t count;
  uint64_t found = 0;
  check_fault(dataplane_drops(site->plane, &rows, &count));
  for (size_t i = 0; i < count; i++)
    if (rows[i].connection == connection && rows[i].reason == reason) found = rows[i].packets;
  free(rows);
  return found;
}

/* Waits until exactly `expected` packets were dropped for this reason. */
static inline void expect_drops(struct site *site, uint32_t connection, enum drop_reason reason, uint64_t expected) {
  for (int i = 0; i < WAIT_MS && site_drops(site, connection, reason) < expected; i++)
    usleep(1000);
  uint64_t found = site_drops(site, connection, reason);
  if (found != expected)
    fprintf(stderr, "drops: %llu instead of %llu\n", (unsigned long long)found, (unsigned long long)expected);
  CHECK(found == expected);
}

/* The next datagram, or -1 after `wait_ms`. */
static inline ssize_t next_datagram(int fd, void *out, size_t room, int wait_ms) {
  struct pollfd readable = {.fd = fd, .events = POLLIN};
  if (poll(&readable, 1, wait_ms) <= 0) return -1;
  return recv(fd, out, room, MSG_DONTWAIT);
}

/* A packet from the hosts into TUN queue 0. */
static inline void host_send(struct site *site, const struct virtio_net_hdr_v1 *vnet, const uint8_t *packet,
                             size_t length) {
  struct virtio_net_hdr_v1 none = {.gso_type = VIRTIO_NET_HDR_GSO_NONE};
  struct iovec iov[2] = {{(void *)(uintptr_t)(vnet ? vnet : &none), sizeof none}, {(void *)(uintptr_t)packet, length}};
  struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2};
  CHECK(sendmsg(site->host[0], &message, 0) == (ssize_t)(sizeof none + length));
}

/* One TCP super-packet of the hosts, which the data plane splits: `segments` of `octets` each. */
static inline void host_send_super(struct site *site, size_t segments, uint16_t octets) {
  static uint8_t packet[70000];
  struct virtio_net_hdr_v1 vnet = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
                                   .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
                                   .hdr_len = 40,
                                   .gso_size = octets,
                                   .csum_start = 20,
                                   .csum_offset = 16};
  struct recipe recipe = {.payload = segments * octets};
  size_t length = build(packet, &recipe);
  make_partial(packet, length, P_TCP);
  host_send(site, &vnet, packet, length);
}

/* What the data plane wrote to its TUN next: the packet, its virtio header in *vnet; -1 when nothing came. */
static inline ssize_t host_receive(struct site *site, struct virtio_net_hdr_v1 *vnet, uint8_t *out, size_t room,
                                   int wait_ms) {
  static uint8_t buffer[70000];
  ssize_t got = next_datagram(site->host[0], buffer, sizeof buffer, wait_ms);
  if (got < 0) return -1;
  CHECK((size_t)got >= sizeof *vnet && (size_t)got - sizeof *vnet <= room);
  memcpy(vnet, buffer, sizeof *vnet);
  memcpy(out, buffer + sizeof *vnet, (size_t)got - sizeof *vnet);
  return got - (ssize_t)sizeof *vnet;
}

/* The other end: seals and opens with keys of its own. */
struct peer {
  int socket;
  struct endpoint local;
  struct esp_thread *thread;
  struct esp_key *seal, *open;
};

static inline void peer_open(struct peer *peer, int family, const struct esp_suite *suite, uint32_t seal_spi) {
  const char *error;
  bool gcm = suite->encryption == ESP_AES_GCM_16;
  int on = 1;
  peer->socket = loopback_socket(family);
  setsockopt(peer->socket, IPPROTO_IP, IP_RECVTOS, &on, sizeof on);
  if (family == AF_INET6) setsockopt(peer->socket, IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof on);
  peer->local = endpoint_of(peer->socket);
  peer->thread = esp_thread_new(ESP_ENGINE_LIBCRYPTO);
  peer->seal = esp_key_new(ESP_ENGINE_LIBCRYPTO, suite, plane_key, gcm ? 20 : 16, plane_key, gcm ? 0 : 32, seal_spi,
                           true, &error);
  peer->open =
      esp_key_new(ESP_ENGINE_LIBCRYPTO, suite, plane_key, gcm ? 20 : 16, plane_key, gcm ? 0 : 32, 0, false, &error);
  CHECK(peer->thread && peer->seal && peer->open);
}

static inline void peer_close(struct peer *peer) {
  close(peer->socket);
  esp_key_free(peer->seal);
  esp_key_free(peer->open);
  esp_thread_free(peer->thread);
}

/* Returns the octets of the ESP packet in `out`. */
static inline size_t peer_seal(struct peer *peer, uint64_t sequence, const uint8_t *inner, size_t length,
                               uint8_t next_header, uint8_t *out) {
  struct esp_seal_item item = {
      .packet = out, .payload_length = length, .sequence = sequence, .next_header = next_header};
  memcpy(out + esp_header_length(peer->seal), inner, length);
  esp_seal(peer->thread, peer->seal, &item, 1);
  CHECK(item.length > 0);
  return item.length;
}

/* In place; the item tells the inner packet. */
static inline struct esp_open_item peer_unseal(struct peer *peer, uint8_t *packet, size_t length, uint64_t high) {
  struct esp_open_item item = {.packet = packet, .length = length, .sequence = high << 32 | get32(packet + 4)};
  esp_open(peer->thread, peer->open, &item, 1);
  return item;
}

static inline void endpoint_name(const struct endpoint *to, struct sockaddr_storage *name, socklen_t *length) {
  memset(name, 0, sizeof *name);
  if (to->family == AF_INET) {
    struct sockaddr_in *in = (struct sockaddr_in *)name;
    in->sin_family = AF_INET;
    in->sin_port = htons(to->port);
    memcpy(&in->sin_addr, to->address, 4);
    *length = sizeof *in;
  } else {
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)name;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(to->port);
    memcpy(&in6->sin6_addr, to->address, 16);
    *length = sizeof *in6;
  }
}

/* To the site's first socket with this TOS or traffic class; `segment` != 0: several datagrams of that size. */
static inline void datagram_send(int fd, const struct endpoint *to, const uint8_t *data, size_t length, int tos,
                                 uint16_t segment) {
  struct sockaddr_storage name;
  struct msghdr message = {.msg_name = &name};
  alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof tos) + CMSG_SPACE(sizeof segment)] = {0};
  struct iovec iov = {(void *)(uintptr_t)data, length};
  endpoint_name(to, &name, &message.msg_namelen);
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  struct cmsghdr *header = (struct cmsghdr *)control;
  header->cmsg_level = to->family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
  header->cmsg_type = to->family == AF_INET ? IP_TOS : IPV6_TCLASS;
  header->cmsg_len = CMSG_LEN(sizeof tos);
  memcpy(CMSG_DATA(header), &tos, sizeof tos);
  message.msg_controllen = CMSG_SPACE(sizeof tos);
  if (segment) {
    header = (struct cmsghdr *)(control + message.msg_controllen);
    header->cmsg_level = IPPROTO_UDP;
    header->cmsg_type = 103; /* UDP_SEGMENT */
    header->cmsg_len = CMSG_LEN(sizeof segment);
    memcpy(CMSG_DATA(header), &segment, sizeof segment);
    message.msg_controllen += CMSG_SPACE(sizeof segment);
  }
  CHECK(sendmsg(fd, &message, 0) == (ssize_t)length);
}

/* The next datagram at `fd` and its TOS or traffic class. */
static inline ssize_t datagram_receive(int fd, uint8_t *out, size_t room, int *tos, int wait_ms) {
  alignas(struct cmsghdr) uint8_t control[256];
  struct iovec iov = {out, room};
  struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  struct pollfd readable = {.fd = fd, .events = POLLIN};
  if (poll(&readable, 1, wait_ms) <= 0) return -1;
  ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT);
  *tos = 0;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_TOS) *tos = *CMSG_DATA(header);
    if (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_TCLASS) memcpy(tos, CMSG_DATA(header), 4);
  }
  return got;
}

static inline size_t site_events(struct site *site, struct event *out, size_t max) {
  return events_drain(site->plane, out, max);
}

#endif
