/* Protocol 50 by packet socket: we write the outer IP header, and the packet goes to the device itself.
 *
 *    egress           who the next hop is, from the control plane, which asks the kernel and listens to its news
 *    packet_send_runs header, sendmmsg; the first packet that does not go ends it, and the raw socket has the rest
 *
 * Not here: routes, neighbours, fragmentation, path MTU, the host's firewall and queueing discipline. What needs the
 * kernel's IP layer (too long, no egress, the device is down or full) goes by the raw socket, which has all of them.
 * RFC 791 3.1, RFC 8200 3, RFC 4303 2.
 */
#include "packet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <netpacket/packet.h>
#include <stdlib.h>
#include <string.h>

#include "inner.h"

#define PACKET_BATCH        32
#define IPV4_DF             0x4000
#define IPV6_FLOW_LABELS    0xfffff
#define LINK_ADDRESS_OCTETS 6

/* Immutable. */
struct egress {
  bool ipv6;
  struct address local, remote;
  struct sockaddr_ll name;
  uint32_t mtu;
  size_t header_length;
  uint8_t header[IPV6_HEADER]; /* of every packet, but for TOS, lengths, identification and checksum */
};

/* ---- control ---- */

struct fault packet_socket_add(struct dataplane *plane, unsigned worker, int fd) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct sockaddr_ll name;
  socklen_t length = sizeof name;
  int type = 0;
  socklen_t octets = sizeof type;
  if (worker >= plane->worker_count)
    fault.sentence = "no such worker";
  else if (getsockname(fd, (struct sockaddr *)&name, &length) < 0 ||
           getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &octets) < 0)
    fault = (struct fault){"not a socket", errno};
  else if (name.sll_family != AF_PACKET || type != SOCK_DGRAM)
    fault.sentence = "neither a packet socket nor of datagrams";
  else
    atomic_store(&plane->workers[worker].packet_socket, fd);
  control_leave(plane);
  return fault;
}

static void header_begin(struct egress *egress, const struct egress_request *request) {
  uint8_t *header = egress->header;
  if (egress->ipv6) {
    egress->header_length = IPV6_HEADER;
    store32(header, 0x60000000u | (request->flow_label & IPV6_FLOW_LABELS));
    header[IPV6_NEXT_HEADER] = IPPROTO_ESP;
    header[IPV6_HOP_LIMIT] = request->hops;
    memcpy(header + IPV6_ADDRESSES, request->local.address, 16);
    memcpy(header + IPV6_ADDRESSES + 16, request->remote.address, 16);
  } else {
    egress->header_length = IPV4_MINIMUM;
    header[0] = 0x45;
    header[IPV4_TTL] = request->hops;
    header[IPV4_PROTOCOL] = IPPROTO_ESP;
    memcpy(header + IPV4_ADDRESSES, request->local.address, 4);
    memcpy(header + IPV4_ADDRESSES + 4, request->remote.address, 4);
  }
}

static struct fault egress_new(const struct egress_request *request, struct egress **out) {
  if (request->local.family != request->remote.family)
    return (struct fault){"local and remote are of different families", 0};
  if (request->interface == 0 || request->interface > INT32_MAX) return (struct fault){"no such interface", 0};
  if (request->hops == 0) return (struct fault){"a packet needs a hop limit", 0};
  struct egress *egress = calloc(1, sizeof *egress);
  if (!egress) return (struct fault){"out of memory", 0};
  egress->ipv6 = request->remote.family == AF_INET6;
  egress->local = endpoint_address(&request->local);
  egress->remote = endpoint_address(&request->remote);
  egress->mtu = request->mtu;
  egress->name = (struct sockaddr_ll){
      .sll_family = AF_PACKET,
      .sll_protocol = htons(egress->ipv6 ? ETHERTYPE_IPV6 : ETHERTYPE_IP),
      .sll_ifindex = (int)request->interface,
      .sll_halen = LINK_ADDRESS_OCTETS,
  };
  memcpy(egress->name.sll_addr, request->link_address, LINK_ADDRESS_OCTETS);
  header_begin(egress, request);
  *out = egress;
  return NO_FAULT;
}

struct fault egress_set(struct dataplane *plane, uint32_t id, const struct egress_request *request) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  struct connection *connection = connection_find(plane, id);
  struct egress *egress = NULL;
  if (!connection)
    fault.sentence = "unknown connection";
  else if (request)
    fault = egress_new(request, &egress);
  if (!fault.sentence) {
    struct egress *old = atomic_exchange(&connection->egress, egress);
    if (old) workers_quiesce(plane);
    free(old);
  }
  control_leave(plane);
  return fault;
}

/* ---- workers ---- */

static bool same_address(struct address a, struct address b) {
  return a.high == b.high && a.low == b.low;
}

/* A peer may move before the control plane has asked for the way to where it is now. Without a local address the kernel
 * chooses one. */
static bool leads_to(const struct egress *egress, const struct outer *outer) {
  return !outer->any_local && egress->ipv6 == outer->ipv6 && same_address(egress->remote, outer->remote) &&
         same_address(egress->local, outer->local);
}

/* RFC 6864 4.2: every worker has identifications of its own, and each comes again as late as can be. */
static uint16_t fresh_id(struct worker *worker) {
  uint32_t workers = worker->plane->worker_count, of_each = 65536 / workers;
  return (uint16_t)(worker->packet_ids++ % of_each * workers + worker->index);
}

static void header_write(struct worker *worker, const struct egress *egress, const struct outer *outer,
                         const struct run *run, uint8_t *header) {
  memcpy(header, egress->header, egress->header_length);
  if (egress->ipv6) {
    /* RFC 8200 3: the traffic class lies across two octets. */
    header[0] |= run->tos >> 4;
    header[1] |= (uint8_t)(run->tos << 4);
    store16(header + IPV6_PAYLOAD_LENGTH, (uint32_t)run->length);
    return;
  }
  header[IPV4_TOS] = run->tos;
  store16(header + IPV4_TOTAL_LENGTH, (uint32_t)(IPV4_MINIMUM + run->length));
  store16(header + IPV4_ID, fresh_id(worker));
  store16(header + IPV4_FRAGMENT, outer->dont_fragment ? IPV4_DF : 0);
  store_checksum(header + IPV4_CHECKSUM, checksum_fold(checksum_add(0, header, IPV4_MINIMUM)));
}

struct packet_batch {
  struct mmsghdr messages[PACKET_BATCH];
  struct iovec iov[PACKET_BATCH][2];
  uint8_t headers[PACKET_BATCH][IPV6_HEADER];
};

/* Those that fit the link, up to the first that does not. */
static size_t batch_fill(struct packet_batch *batch, struct worker *worker, const struct egress *egress,
                         const struct outer *outer, const struct run *runs, size_t count) {
  size_t filled = 0;
  for (; filled < count && filled < PACKET_BATCH; filled++) {
    const struct run *run = &runs[filled];
    struct iovec *iov = batch->iov[filled];
    if (run->count != 1 || egress->header_length + run->length > egress->mtu) break;
    header_write(worker, egress, outer, run, batch->headers[filled]);
    iov[0] = (struct iovec){batch->headers[filled], egress->header_length};
    iov[1] = (struct iovec){run->data, run->length};
    batch->messages[filled].msg_hdr = (struct msghdr){.msg_name = (void *)(uintptr_t)&egress->name,
                                                      .msg_namelen = sizeof egress->name,
                                                      .msg_iov = iov,
                                                      .msg_iovlen = 2};
  }
  return filled;
}

/* How many went. ENOBUFS: the device's queue is full, and past the queueing discipline there is nowhere to wait. */
static size_t batch_send(struct worker *worker, int fd, struct packet_batch *batch, size_t count) {
  size_t done = 0;
  while (done < count) {
    int sent = sendmmsg(fd, batch->messages + done, (unsigned)(count - done), MSG_DONTWAIT | MSG_NOSIGNAL);
    counter_add(&worker->counters.packet_sends, 1);
    if (sent > 0) {
      done += (size_t)sent;
    } else if (errno != EINTR) {
      bool full = errno == ENOBUFS || errno == EAGAIN;
      counter_add(full ? &worker->counters.packets_full : &worker->counters.packets_refused, count - done);
      break;
    }
  }
  return done;
}

size_t packet_send_runs(struct worker *worker, const struct sa *sa, const struct outer *outer, const struct run *runs,
                        size_t count) {
  const struct egress *egress = atomic_load_explicit(&sa->connection->egress, memory_order_acquire);
  int fd = atomic_load_explicit(&worker->packet_socket, memory_order_relaxed);
  if (!egress || fd < 0 || !leads_to(egress, outer)) return 0;
  struct packet_batch batch;
  size_t done = 0;
  while (done < count) {
    size_t filled = batch_fill(&batch, worker, egress, outer, runs + done, count - done);
    size_t sent = batch_send(worker, fd, &batch, filled);
    done += sent;
    if (filled == 0 || sent < filled) break;
  }
  return done;
}
