/* Super-packets in memory: splitting what a TUN with IFF_VNET_HDR hands over, and merging what it accepts.
 *
 * Pure functions over buffers (virtio 1.2 5.1.6 header, host byte order); no input or output.
 */
#ifndef GATEWAY_SEGMENT_H
#define GATEWAY_SEGMENT_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4 /* Linux 6.2 headers have it */
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

struct inner;

enum segment_result { SEGMENT_OK, SEGMENT_MALFORMED, SEGMENT_UNSUPPORTED };

/* Splits one packet from the TUN. Iterator style, so that each segment is written straight into its place in the UDP
 * GSO buffer: begin() validates everything once against `length`; next() writes segment i and returns its octets, 0 at
 * the end. */
struct segmenter {
  const uint8_t *packet; /* the inner IP packet (after the virtio header) */
  size_t length;
  /* private from here; the implementation may add */
  uint8_t gso_type;
  uint16_t gso_size;
  uint16_t l3_length, l4_length, header_length;
  bool ipv6;
  uint8_t l4_protocol;
  uint32_t first_sequence;
  uint16_t first_ip_id;
  size_t payload_offset;
  uint32_t index;
  uint32_t count;
  bool complete_checksum;
  size_t checksum_start, checksum_field; /* of a plain packet with NEEDS_CSUM */
};

enum segment_result segmenter_begin(struct segmenter *s, const struct virtio_net_hdr_v1 *vnet, const uint8_t *packet,
                                    size_t length);
/* The same for a packet whose headers were read. */
enum segment_result segmenter_begin_parsed(struct segmenter *s, const struct virtio_net_hdr_v1 *vnet,
                                           const uint8_t *packet, const struct inner *inner);
uint32_t segmenter_count(const struct segmenter *s);
size_t segmenter_next_length(const struct segmenter *s); /* octets of the next segment, 0 at the end */
/* Writes the next segment to `out` (room for segmenter_next_length; a packet that stays whole may stand there already):
 * headers rebuilt (lengths, IP id, checksums, TCP sequence, FIN/PSH only on the last, CWR only on the first), payload
 * copied, L4 checksum complete. */
size_t segmenter_next(struct segmenter *s, uint8_t *out);

/* Clamps the MSS option of a TCP SYN in place (RFC 1624 incremental checksum, or the pseudo-header sum left alone when
 * `partial`); does nothing for other packets, fragments, or an MSS already small enough. 0 turns it off. */
void segment_clamp_mss(uint8_t *packet, size_t length, uint16_t mss4, uint16_t mss6, bool partial);

/* Merging inner packets of one inbound burst towards the TUN. */
#define COALESCE_SEGMENTS_MAX 64
struct coalescer {
  struct virtio_net_hdr_v1 vnet;
  struct iovec iov[1 + COALESCE_SEGMENTS_MAX]; /* [0] is vnet, [1] head packet, rest payload pieces */
  int iov_count;                               /* 0: empty */
  size_t total;                                /* octets of the merged IP packet, without vnet */
  /* private from here */
  uint8_t *head;
  size_t head_length, header_length, segment_size;
  uint32_t next_sequence;
  uint32_t segments;
  bool closed;   /* nothing may join any more */
  bool verified; /* the head's checksums */
  bool ipv6;
  uint8_t l4_protocol;
  size_t l3_length;
};

void coalescer_reset(struct coalescer *c);
/* Takes the packet if it may join (same flow, headers, contiguous, checksum verified, size rules) or if empty. False:
 * flush first (coalescer_finish, writev iov, reset), then add again, which succeeds. Packets stay owned by the caller
 * until finish+writev. `merge_udp`: the TUN accepts USO. */
bool coalescer_add(struct coalescer *c, uint8_t *packet, size_t length, bool merge_udp);
/* The same for a packet whose headers were read. */
bool coalescer_add_parsed(struct coalescer *c, uint8_t *packet, const struct inner *inner, bool merge_udp);
/* Rewrites the head's lengths and pseudo-header checksum and fills vnet. */
void coalescer_finish(struct coalescer *c);

/* Internet checksum (RFC 1071), unfolded 32-bit accumulation over any length and alignment, in memory order: a folded
 * value is stored with memcpy, without htons. Only the last piece of a sum may have an odd length. */
uint32_t checksum_add(uint32_t sum, const void *data, size_t length);
uint32_t checksum_copy(uint32_t sum, void *to, const void *data, size_t length); /* the same, and copies */
/* Folded and complemented, ready for a checksum field; 0 when a packet summed with its checksum is good. */
uint16_t checksum_fold(uint32_t sum);

#endif
