/* Connections and their TUN queues; what is written back into them. */
#include "tun.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "inner.h"
#include "segment.h"

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

#define MTU_MIN         68 /* RFC 791 3.2 */
#define MTU_MAX         65535
#define DSCP_MAX        63 /* RFC 2474 3 */
#define ICMP_PER_SECOND 100
#define ICMP4_QUOTE_MAX (576 - 20 - 8)  /* RFC 1812 4.3.2.3 */
#define ICMP6_QUOTE_MAX (1280 - 40 - 8) /* RFC 4443 2.4 (c) */
#define ICMP_HOPS       64

static struct fault queue_prepare(int fd, bool *merge_udp) {
  int header = VNET_OCTETS;
  unsigned basic = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
  if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0) return (struct fault){"not a TUN queue with IFF_VNET_HDR", errno};
  /* USO came with Linux 6.2. */
  *merge_udp = ioctl(fd, TUNSETOFFLOAD, basic | TUN_F_USO4 | TUN_F_USO6) == 0;
  if (!*merge_udp && ioctl(fd, TUNSETOFFLOAD, basic) < 0)
    return (struct fault){"the TUN refuses checksum and segmentation offload", errno};
  int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
    return (struct fault){"the TUN queue cannot be made non-blocking", errno};
  return NO_FAULT;
}

struct connection *connection_find(struct dataplane *plane, uint32_t id) {
  return index_at(&plane->connections_by_id, id);
}

void connection_free(struct connection *connection) {
  if (!connection) return;
  free(atomic_load(&connection->policy));
  free(atomic_load(&connection->egress));
  free(connection->lanes);
  free(connection->queues);
  free(connection);
}

static struct connection *connection_new(const struct dataplane *plane, uint32_t id, size_t queues, uint32_t mtu) {
  struct connection *connection = calloc(1, sizeof *connection);
  if (!connection) return NULL;
  size_t lanes = plane->worker_count * sizeof *connection->lanes;
  connection->id = id;
  atomic_init(&connection->mtu, mtu);
  connection->queue_count = queues;
  connection->queues = calloc(queues, sizeof *connection->queues);
  connection->lanes = aligned_alloc(CACHE_LINE, lanes);
  if (connection->queues && connection->lanes) {
    memset(connection->lanes, 0, lanes);
    return connection;
  }
  connection_free(connection);
  return NULL;
}

static void queues_unpoll(struct dataplane *plane, struct connection *connection) {
  for (size_t i = 0; i < connection->queue_count; i++)
    worker_unpoll(&connection->queues[i]);
  workers_quiesce_sources(plane);
}

static void connection_link(struct dataplane *plane, struct connection *connection) {
  connection->next = plane->connections;
  if (connection->next) connection->next->previous = connection;
  plane->connections = connection;
}

static void connection_unlink(struct dataplane *plane, struct connection *connection) {
  if (connection->next) connection->next->previous = connection->previous;
  if (connection->previous)
    connection->previous->next = connection->next;
  else
    plane->connections = connection->next;
}

struct fault connection_add(struct dataplane *plane, uint32_t id, const int *fds, size_t count, uint32_t mtu) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct connection *connection = NULL;
  if (id == 0)
    fault.sentence = "connection 0 means none";
  else if (connection_find(plane, id))
    fault.sentence = "the connection exists";
  else if (count != 1 && count != plane->worker_count)
    fault.sentence = "one TUN queue, or one for each worker";
  else if (mtu < MTU_MIN || mtu > MTU_MAX)
    fault.sentence = "the MTU must be 68 to 65535";
  else if (!(connection = connection_new(plane, id, count, mtu)))
    fault.sentence = "out of memory";

  for (size_t i = 0; i < count && !fault.sentence; i++)
    fault = queue_prepare(fds[i], &connection->merge_udp);
  for (size_t i = 0; i < count && !fault.sentence; i++) {
    struct source *queue = &connection->queues[i];
    queue->kind = SOURCE_TUN;
    queue->fd = fds[i];
    queue->connection = connection;
    fault = worker_poll(&plane->workers[i], queue);
  }
  if (!fault.sentence && !index_put(&plane->connections_by_id, id, connection)) fault.sentence = "out of memory";
  if (!fault.sentence) {
    connection_link(plane, connection);
  } else if (connection) {
    queues_unpoll(plane, connection);
    connection_free(connection);
  }
  control_leave(plane);
  return fault;
}

struct fault connection_update(struct dataplane *plane, uint32_t id, const struct passage *passage) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct connection *connection = connection_find(plane, id);
  if (!connection) {
    fault.sentence = "unknown connection";
  } else if (passage->mtu < MTU_MIN || passage->mtu > MTU_MAX) {
    fault.sentence = "the MTU must be 68 to 65535";
  } else if (passage->dscp > DSCP_MAX) {
    fault.sentence = "the DSCP must be at most 63";
  } else {
    atomic_store(&connection->mtu, passage->mtu);
    atomic_store(&connection->mss4, passage->mss4);
    atomic_store(&connection->mss6, passage->mss6);
    atomic_store(&connection->outer_ds, passage->dscp < 0 ? 0 : (uint16_t)(OUTER_DS_FIXED | passage->dscp << 2));
    atomic_store(&connection->clear_df, passage->clear_df);
    workers_quiesce(plane);
  }
  control_leave(plane);
  return fault;
}

struct fault connection_reopen(struct dataplane *plane, uint32_t id) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct connection *connection = connection_find(plane, id);
  if (connection)
    queues_unpoll(plane, connection);
  else
    fault.sentence = "unknown connection";
  for (size_t i = 0; connection && i < connection->queue_count && !fault.sentence; i++) {
    bool merge_udp; /* the kernel's answer was the same when the connection was added */
    fault = queue_prepare(connection->queues[i].fd, &merge_udp);
    if (!fault.sentence) fault = worker_poll(&plane->workers[i], &connection->queues[i]);
  }
  control_leave(plane);
  return fault;
}

struct fault connection_remove(struct dataplane *plane, uint32_t id) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct connection *connection = connection_find(plane, id);
  if (connection) {
    struct sa *removed = sas_unlink(plane, connection);
    index_remove(&plane->connections_by_id, id);
    connection_unlink(plane, connection);
    /* The policy goes with the connection: once no queue is polled, no worker reads it. */
    queues_unpoll(plane, connection);
    sas_free(removed);
    connection_free(connection);
  }
  control_leave(plane);
  return fault;
}

int tun_write_fd(const struct worker *worker, const struct connection *connection) {
  return connection->queues[worker->index % connection->queue_count].fd;
}

bool tun_write(struct worker *worker, struct connection *connection, const struct iovec *iov, int count) {
  ssize_t written;
  do
    written = writev(tun_write_fd(worker, connection), iov, count);
  while (written < 0 && errno == EINTR);
  counter_add(&worker->counters.tun_writes, 1);
  return written >= 0;
}

static bool icmp_allowed(struct worker *worker, struct connection *connection) {
  struct lane *lane = &connection->lanes[worker->index];
  uint64_t second = now_ns() / 1000000000u;
  if (lane->icmp_second != second) {
    lane->icmp_second = second;
    lane->icmp_sent = 0;
  }
  return lane->icmp_sent++ < ICMP_PER_SECOND;
}

/* RFC 1122 3.2.2: no ICMP error about an ICMP error, a later fragment, a multicast or broadcast packet, or from a
 * source that is no single host. */
static bool icmp4_answerable(const uint8_t *packet, const struct inner *inner) {
  if ((packet[6] & 0x1f) != 0 || packet[7] != 0) return false;
  if (packet[16] >= 224 || packet[12] >= 224 || packet[12] == 127 || packet[12] == 0) return false;
  if (inner->protocol != IPPROTO_ICMP) return true;
  unsigned type = inner->source_port >> 8;
  return inner->ports_known &&
         (type == ICMP_ECHO || type == ICMP_ECHOREPLY || type == ICMP_TIMESTAMP || type == ICMP_TIMESTAMPREPLY);
}

static size_t icmp4_too_big(uint8_t *out, const uint8_t *packet, size_t length, uint32_t mtu) {
  size_t quote = length < ICMP4_QUOTE_MAX ? length : ICMP4_QUOTE_MAX, total = 28 + quote;
  memset(out, 0, 28);
  out[0] = 0x45;
  store16(out + 2, (uint32_t)total);
  out[8] = ICMP_HOPS;
  out[9] = IPPROTO_ICMP;
  memcpy(out + 12, packet + 16, 4);
  memcpy(out + 16, packet + 12, 4);
  store_checksum(out + 10, checksum_fold(checksum_add(0, out, 20)));
  uint8_t *icmp = out + 20;
  icmp[0] = ICMP_DEST_UNREACH;
  icmp[1] = ICMP_FRAG_NEEDED;
  store16(icmp + 6, mtu);
  memcpy(icmp + 8, packet, quote);
  store_checksum(icmp + 2, checksum_fold(checksum_add(0, icmp, 8 + quote)));
  return total;
}

/* RFC 4443 2.4 (e): what hides its ICMPv6 type in a later fragment may be an error too. */
static bool icmp6_answerable(const uint8_t *packet, const struct inner *inner) {
  static const uint8_t unspecified[16];
  if (packet[8] == 0xff || memcmp(packet + 8, unspecified, 16) == 0 || packet[24] == 0xff) return false;
  return inner->protocol != IPPROTO_ICMPV6 || (inner->ports_known && (inner->source_port & 0x8000));
}

static size_t icmp6_too_big(uint8_t *out, const uint8_t *packet, size_t length, uint32_t mtu) {
  size_t quote = length < ICMP6_QUOTE_MAX ? length : ICMP6_QUOTE_MAX, body = 8 + quote;
  uint8_t pseudo[8] = {0, 0, (uint8_t)(body >> 8), (uint8_t)body, 0, 0, 0, IPPROTO_ICMPV6};
  memset(out, 0, 48);
  out[0] = 0x60;
  store16(out + 4, (uint32_t)body);
  out[6] = IPPROTO_ICMPV6;
  out[7] = ICMP_HOPS;
  memcpy(out + 8, packet + 24, 16);
  memcpy(out + 24, packet + 8, 16);
  uint8_t *icmp = out + 40;
  icmp[0] = ICMP6_PACKET_TOO_BIG;
  store16(icmp + 4, mtu >> 16);
  store16(icmp + 6, mtu);
  memcpy(icmp + 8, packet, quote);
  uint32_t sum = checksum_add(checksum_add(0, out + 8, 32), pseudo, sizeof pseudo);
  store_checksum(icmp + 2, checksum_fold(checksum_add(sum, icmp, body)));
  return 40 + body;
}

void tun_too_big(struct worker *worker, struct connection *connection, const struct inner *inner, const uint8_t *packet,
                 size_t length, uint32_t mtu) {
  uint8_t error[1280];
  struct virtio_net_hdr_v1 vnet;
  size_t octets;
  if (!inner->ipv6) {
    if (!icmp4_answerable(packet, inner) || !icmp_allowed(worker, connection)) return;
    octets = icmp4_too_big(error, packet, length, mtu);
  } else {
    if (!icmp6_answerable(packet, inner) || !icmp_allowed(worker, connection)) return;
    octets = icmp6_too_big(error, packet, length, mtu);
  }
  memset(&vnet, 0, sizeof vnet);
  struct iovec iov[2] = {{&vnet, sizeof vnet}, {error, octets}};
  /* An ICMP error is best effort: the packet itself is counted as too_big by the caller. */
  if (!tun_write(worker, connection, iov, 2)) return;
}
