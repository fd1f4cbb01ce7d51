/* Packet sockets for protocol 50: sealed packets straight to the next hop's link address, past the host's IP layer. */
#ifndef GATEWAY_PACKET_H
#define GATEWAY_PACKET_H

#include "dataplane.h"
#include "udp.h"

struct egress_request {
  struct endpoint local, remote;
  unsigned interface;
  uint8_t link_address[6];
  uint32_t mtu;        /* of outer packets: the link's, or the route's where that is less */
  uint8_t hops;        /* TTL or hop limit */
  uint32_t flow_label; /* IPv6 */
};

/* The socket by which a worker sends: AF_PACKET, SOCK_DGRAM. The caller owns it and keeps it until dataplane_stop. */
struct fault packet_socket_add(struct dataplane *plane, unsigned worker, int fd);
/* From now on the connection's ESP between these two addresses goes this way; NULL: by the raw socket. */
struct fault egress_set(struct dataplane *plane, uint32_t connection, const struct egress_request *request);

/* Workers. Sends the first of the runs, in order, and returns how many; the rest is the raw socket's. */
size_t packet_send_runs(struct worker *worker, const struct sa *sa, const struct outer *outer, const struct run *runs,
                        size_t count);

#endif
