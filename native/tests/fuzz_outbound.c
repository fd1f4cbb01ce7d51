/* Packets from the TUN into the outbound half: selectors, clamping, segments, fragments, "too big", runs.
 *
 * What leaves opens with the key, is a whole packet no longer than the MTU and carries its TOS or a fixed DSCP outside;
 * an ICMP error quotes the packet it answers, and none answers an error.
 */
#include "outbound.c"

#include "fuzz.h"
#include "plane.h"

enum { SPI_OUT = 0x3003 };

static struct site site;
static struct peer peer;
static struct segmenter first; /* of the packet under test */
static const uint8_t *asked;
static size_t asked_length;
static uint32_t mtu;
static int dscp;
static bool clear_df;
static uint64_t sent, last_sequence;

void __wrap_udp_send_runs(struct worker *worker, const struct sa *sa, const struct run *runs, size_t count);
void __wrap_udp_send_runs(struct worker *worker, const struct sa *sa, const struct run *runs, size_t count) {
  (void)worker;
  (void)sa;
  for (size_t i = 0; i < count; i++) {
    CHECK(runs[i].count >= 1 && runs[i].length > 0 && runs[i].count <= GSO_SEGMENTS_MAX);
    uint32_t datagrams = 0;
    for (size_t offset = 0; offset < runs[i].length; offset += runs[i].segment_size, datagrams++) {
      size_t left = runs[i].length - offset;
      struct esp_open_item item =
          peer_unseal(&peer, runs[i].data + offset, left < runs[i].segment_size ? left : runs[i].segment_size, 0);
      CHECK(item.result == ESP_OK && item.sequence == ++last_sequence);
      const uint8_t *inner = item.payload;
      bool ipv6 = inner[0] >> 4 == 6;
      CHECK(item.next_header == (ipv6 ? 41 : 4));
      CHECK((ipv6 ? 40u + get16(inner + 4) : get16(inner + 2)) == item.payload_length);
      CHECK(item.payload_length <= (ipv6 && mtu < 1280 ? 1280 : mtu));
      uint8_t tos = ipv6 ? (uint8_t)(get16(inner) >> 4) : inner[1];
      CHECK(runs[i].tos == (dscp < 0 ? tos : (dscp << 2 | (tos & 3))));
      sent++;
    }
    CHECK(datagrams == runs[i].count);
  }
}

static void check_icmp4(const uint8_t *error, size_t length) {
  CHECK(get16(error + 2) == length && length <= 576 && slow_sum(0, error, 20) == 0xffff && error[9] == IPPROTO_ICMP);
  CHECK(memcmp(error + 12, asked + 16, 4) == 0 && memcmp(error + 16, asked + 12, 4) == 0);
  CHECK(error[20] == 3 && error[21] == 4 && get16(error + 26) == mtu && slow_sum(0, error + 20, length - 20) == 0xffff);
  CHECK(length - 28 <= asked_length && (get16(asked + 6) & 0x1fff) == 0 && (get16(asked + 6) & 0x4000) && !clear_df);
  if (asked[9] != IPPROTO_ICMP) return;
  uint8_t type = asked[(size_t)(asked[0] & 15) * 4];
  CHECK(type == 0 || type == 8 || type == 13 || type == 14);
}

static void check_icmp6(const uint8_t *error, size_t length) {
  CHECK(get16(error + 4) + 40u == length && length <= 1280 && error[6] == IPPROTO_ICMPV6);
  CHECK(memcmp(error + 8, asked + 24, 16) == 0 && memcmp(error + 24, asked + 8, 16) == 0);
  CHECK(error[40] == 2 && get32(error + 44) == (mtu < 1280 ? 1280 : mtu));
  CHECK(slow_sum(slow_pseudo(error, IPPROTO_ICMPV6, length - 40), error + 40, length - 40) == 0xffff);
  CHECK(length - 48 <= asked_length && asked[24] != 0xff && asked[8] != 0xff);
  if (asked[6] == IPPROTO_ICMPV6) CHECK(asked[40] & 0x80);
}

ssize_t __wrap_writev(int fd, const struct iovec *iov, int count);
ssize_t __wrap_writev(int fd, const struct iovec *iov, int count) {
  static const struct virtio_net_hdr_v1 none;
  CHECK(fd == site.tun[0] && count == 2 && memcmp(iov[0].iov_base, &none, sizeof none) == 0);
  const uint8_t *error = iov[1].iov_base;
  if (error[0] >> 4 == 4)
    check_icmp4(error, iov[1].iov_len);
  else
    check_icmp6(error, iov[1].iov_len);
  return (ssize_t)(iov[0].iov_len + iov[1].iov_len);
}

static void scene(void) {
  if (site.plane) return;
  site_open(&site, 1, AF_INET, ESP_ENGINE_AUTO);
  peer_open(&peer, AF_INET, &plane_gcm, SPI_OUT);
  site_out(&site, SPI_OUT, &plane_gcm, &peer.local);
}

static uint64_t dropped(void) {
  uint64_t total = 0;
  struct connection *connection = connection_find(site.plane, CONNECTION);
  for (int reason = 0; reason < DROP_REASON_COUNT; reason++)
    total += atomic_load(&connection->lanes[0].drops[reason]);
  return total;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const uint16_t mtus[] = {68, 576, 1280, 1438, 3000, 9000};
  static const uint8_t kinds[] = {VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
                                  VIRTIO_NET_HDR_GSO_UDP_L4};
  struct fuzz_reader in = {data, size};
  scene();
  struct connection *connection = connection_find(site.plane, CONNECTION);
  uint8_t options = fuzz_u8(&in);
  struct virtio_net_hdr_v1 vnet = {.flags = fuzz_u8(&in), .gso_type = kinds[(options >> 4) % 4]};
  vnet.gso_size = fuzz_u16(&in);
  vnet.csum_start = fuzz_u16(&in);
  vnet.csum_offset = fuzz_u16(&in);
  mtu = mtus[options % 6];
  atomic_store(&connection->mtu, mtu);
  atomic_store(&connection->mss4, options & 0x40 ? 500 : 0);
  atomic_store(&connection->mss6, options & 0x80 ? 500 : 0);
  dscp = vnet.flags & 0x80 ? vnet.flags & 0x3f : -1;
  atomic_store(&connection->outer_ds, dscp < 0 ? 0 : (uint16_t)(OUTER_DS_FIXED | dscp << 2));
  clear_df = vnet.flags & 0x40;
  atomic_store(&connection->clear_df, clear_df);
  uint8_t *packet = exact_copy(in.data, in.left);
  asked = packet;
  asked_length = in.left;
  enum segment_result result = segmenter_begin(&first, &vnet, packet, in.left);
  uint64_t before = dropped();
  sent = 0;
  site.plane->workers[0].outbound->vnet = vnet;
  forward(&site.plane->workers[0], connection, packet, in.left);
  flush(&site.plane->workers[0]);
  uint64_t ended = sent + dropped() - before;
  CHECK(result == SEGMENT_OK ? ended >= segmenter_count(&first) : sent == 0 && ended == 1);
  free(packet);
  return 0;
}

static size_t fuzz_seed(size_t index, uint8_t *out) {
  if (index >= 48) return 0;
  struct recipe recipe = {.ipv6 = index & 1,
                          .protocol = index & 2 ? P_UDP : P_TCP,
                          .tos = (uint8_t)index,
                          .ip_options = index & 1 ? 0 : index / 2 % 3 * 4,
                          .payload = index & 4 ? 3500 : 300};
  uint8_t kind = index & 8 ? 0 : index & 2 ? 3 : index & 1 ? 2 : 1;
  size_t length = build(out + 8, &recipe), l3 = l3_of(out + 8);
  if (index & 16) {
    if (index & 1)
      out[8 + 6] = IPPROTO_ICMPV6;
    else
      out[8 + 9] = IPPROTO_ICMP;
    out[8 + l3] = index & 1 ? 128 : 8;
  } else if (!(index & 1) && index & 8) {
    put16(out + 8 + 6, 0); /* may be fragmented */
  }
  out[0] = (uint8_t)(kind << 4 | index % 6);
  out[1] = (uint8_t)((kind ? VIRTIO_NET_HDR_F_NEEDS_CSUM : 0) | (index & 32 ? 0xc0 | 46 : 0));
  put16(out + 2, 100);
  put16(out + 4, l3);
  put16(out + 6, recipe.protocol == P_UDP ? 6 : 16);
  return 8 + length;
}
