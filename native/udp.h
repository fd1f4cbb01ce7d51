/* Outer sockets: ESP in UDP (RFC 3948) with UDP_SEGMENT and UDP_GRO, and raw protocol 50. */
#ifndef GATEWAY_UDP_H
#define GATEWAY_UDP_H

#include <sys/socket.h>

#include "dataplane.h"

/* UDP_SEGMENT counts the headers against the device's 65536 octets of gso_max_size: a payload near the limit of 65507
 * is segmented again. */
#define GSO_OCTETS_MAX    65400
#define GSO_SEGMENTS_MAX  128
#define GSO_SEGMENTS_SURE 64 /* of Linux before 6.9 */

#define RECEIVE_SLOTS       8
#define RECEIVE_SLOT_OCTETS 65536

/* Consecutive equal-sized ESP packets of one TOS in memory, only the last may be shorter: one GSO send. */
struct run {
  uint8_t *data;
  size_t length;
  uint32_t segment_size;
  uint32_t count;
  uint8_t tos;
  bool closed;
};

/* Where an outbound SA sends to, ready for sendmsg. Immutable. */
struct outer {
  struct sockaddr_storage name;
  socklen_t name_length;
  size_t pktinfo_length; /* 0: the socket is bound to the source address */
  alignas(struct cmsghdr) uint8_t pktinfo[CMSG_SPACE(32)];
  bool raw;
  /* The same for comparing with inner packets. */
  bool ipv6, any_local;
  bool dont_fragment; /* IPv4: what the socket does to packets that fit */
  uint16_t port;
  struct address local, remote;
};

/* One received datagram, or several of equal size that the kernel merged. */
struct received {
  uint8_t *data;
  size_t length, segment_size;
  uint8_t ecn; /* of all of them: the kernel merges no datagrams that differ in it */
  struct endpoint local, remote;
};

struct receive_slots {
  struct mmsghdr messages[RECEIVE_SLOTS];
  struct iovec iov[RECEIVE_SLOTS];
  struct sockaddr_storage names[RECEIVE_SLOTS];
  alignas(struct cmsghdr) uint8_t control[RECEIVE_SLOTS][256];
  uint8_t *data; /* RECEIVE_SLOTS * RECEIVE_SLOT_OCTETS */
};

struct fault socket_add(struct dataplane *plane, unsigned worker, int fd);
struct fault socket_remove(struct dataplane *plane, int fd);
/* What waits in the socket to be received, and datagrams dropped since it exists because too much waited. */
struct socket_backlog {
  uint64_t octets, drops;
};
struct socket_backlog socket_backlog(int fd);

/* NULL with a fault when the socket cannot send there. */
struct fault outer_new(int fd, bool encapsulate, const struct endpoint *local, const struct endpoint *remote,
                       struct outer **outer);

bool endpoint_from_sockaddr(const struct sockaddr *name, struct endpoint *out);
bool endpoint_equal(const struct endpoint *a, const struct endpoint *b);
struct address endpoint_address(const struct endpoint *endpoint);

/* Workers. Sends every run; whatever the kernel refuses is counted as send_failed for the SA's connection. */
void udp_send_runs(struct worker *worker, const struct sa *sa, const struct run *runs, size_t count);
void receive_slots_init(struct receive_slots *slots, uint8_t *data);
/* Never blocks. Returns how many messages arrived. */
int udp_receive(struct worker *worker, struct source *source, struct receive_slots *slots);
/* Message i of the last udp_receive; false when it cannot be used. */
bool udp_received(const struct receive_slots *slots, const struct source *source, int i, struct received *out);
void udp_drain_errors(struct source *source);

#endif
