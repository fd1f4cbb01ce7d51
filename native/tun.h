/* TUN queues with virtio headers, and what goes back into them: opened packets and ICMP errors. */
#ifndef GATEWAY_TUN_H
#define GATEWAY_TUN_H

#include <linux/virtio_net.h>
#include <sys/uio.h>

#include "dataplane.h"

#define VNET_OCTETS       sizeof(struct virtio_net_hdr_v1)
#define TUN_PACKET_OCTETS 65536

/* The queue this worker writes to: its own, or the only one. */
int tun_write_fd(const struct worker *worker, const struct connection *connection);
/* Writes one (super-)packet with its virtio header first; false when the TUN refused it. */
bool tun_write(struct worker *worker, struct connection *connection, const struct iovec *iov, int count);
/* Tells the sender of `packet` that it exceeds `mtu` (RFC 1191 4, RFC 4443 3.2): ICMP from the packet's own
 * destination, for the gateway has no address inside. Silent where no ICMP error may be sent, and beyond 100 a second.
 */
void tun_too_big(struct worker *worker, struct connection *connection, const struct inner *inner, const uint8_t *packet,
                 size_t length, uint32_t mtu);

#endif
