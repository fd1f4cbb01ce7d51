/* Datagrams into the inbound half, from classify on: as they come, or sealed with the right key around anything.
 *
 * What reaches a TUN is a whole IP packet inside the selectors of its SA, and every datagram ends exactly once: punted,
 * counted as dropped, or delivered.
 */
#include "inbound.c"

#include "fuzz.h"
#include "plane.h"

enum { SPI_ANY = 0x1001, SPI_NARROW = 0x1002, NARROW = 8 };

static struct site site;
static struct peer peers[2];
static struct source source;
static struct received from;
static int narrow_tun[2];
static uint64_t numbers[2], delivered;
static uint8_t *copies[256]; /* alive until the burst was written */
static size_t copy_count;

/* RFC 4301 5.2, by hand: UDP from 10.1.0.0/16 to port 9000 in 10.2.0.0/16. */
static bool is_narrow(const uint8_t *packet, size_t length) {
  size_t l3 = (size_t)(packet[0] & 15) * 4;
  return packet[0] >> 4 == 4 && length >= l3 + 4 && packet[9] == P_UDP && get16(packet + 12) == 0x0a01 &&
         get16(packet + 16) == 0x0a02 && (get16(packet + 6) & 0x1fff) == 0 && get16(packet + l3 + 2) == 9000;
}

static void check_packet(int fd, const uint8_t *packet, size_t length) {
  CHECK(packet[0] >> 4 == 4 || packet[0] >> 4 == 6);
  CHECK((packet[0] >> 4 == 4 ? get16(packet + 2) : get16(packet + 4) + 40u) == length);
  if (fd == narrow_tun[1]) CHECK(is_narrow(packet, length));
  delivered++;
}

ssize_t __wrap_writev(int fd, const struct iovec *iov, int count);
ssize_t __wrap_writev(int fd, const struct iovec *iov, int count) {
  static uint8_t flat[70000], out[70000];
  struct virtio_net_hdr_v1 vnet;
  size_t length = 0;
  CHECK(iov[0].iov_len == sizeof vnet);
  memcpy(&vnet, iov[0].iov_base, sizeof vnet);
  for (int i = 1; i < count; i++) {
    memcpy(flat + length, iov[i].iov_base, iov[i].iov_len);
    length += iov[i].iov_len;
  }
  if (vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE) {
    CHECK(vnet.flags == 0);
    check_packet(fd, flat, length);
    return (ssize_t)(sizeof vnet + length);
  }
  struct segmenter s;
  size_t next;
  CHECK(segmenter_begin(&s, &vnet, flat, length) == SEGMENT_OK && segmenter_count(&s) > 1);
  while ((next = segmenter_next(&s, out)) != 0) {
    CHECK(is_sound(out, next, s.l4_protocol));
    check_packet(fd, out, next);
  }
  return (ssize_t)(sizeof vnet + length);
}

static void scene(void) {
  static const struct selector narrow = {.local_first = {0, 0x0a020000},
                                         .local_last = {0, 0x0a02ffff},
                                         .remote_first = {0, 0x0a010000},
                                         .remote_last = {0, 0x0a01ffff},
                                         .local_port_first = 9000,
                                         .local_port_last = 9000,
                                         .remote_port_last = 0xffff,
                                         .protocol = P_UDP};
  if (site.plane) return;
  site_open(&site, 1, AF_INET, ESP_ENGINE_AUTO);
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, narrow_tun) == 0);
  check_fault(connection_add(site.plane, NARROW, &narrow_tun[1], 1, SITE_MTU));
  check_fault(connection_update(site.plane, CONNECTION, &(struct passage){SITE_MTU, 1200, 1180, -1, false}));
  peer_open(&peers[0], AF_INET, &plane_gcm, SPI_ANY);
  peer_open(&peers[1], AF_INET, &plane_cbc, SPI_NARROW);
  site_in(&site, SPI_ANY, &plane_gcm, &peers[0].local);
  struct sa_request request = sa_like(&site, true, SPI_NARROW, &plane_cbc, &peers[1].local);
  request.connection = NARROW;
  request.selectors = &narrow;
  request.selector_count = 1;
  check_fault(sa_add(site.plane, &request));
  source = (struct source){.kind = SOURCE_UDP, .fd = site.udp[0], .local = site.local};
  from = (struct received){.local = site.local, .remote = peers[0].local};
}

static uint64_t dropped(void) {
  struct drop_row *rows;
  size_t count;
  uint64_t total = 0;
  check_fault(dataplane_drops(site.plane, &rows, &count));
  for (size_t i = 0; i < count; i++)
    total += rows[i].packets;
  free(rows);
  return total;
}

static uint64_t punted(void) {
  uint64_t count = 0;
  for (struct punt *punt = punts_drain(site.plane), *next; punt; punt = next, count++) {
    next = punt->next;
    free(punt);
  }
  return count;
}

static void finish_round(struct worker *worker) {
  open_burst(worker);
  write_out(worker);
  while (copy_count > 0)
    free(copies[--copy_count]);
}

/* Text as it is, trailer included, under a good ICV. */
static size_t seal_text(uint8_t *packet, const uint8_t *text, size_t length) {
  static void *key, *thread;
  struct aead_keying keying = {.suite = plane_gcm, .shape = {8, 16, 4, 16}, .cipher_key_length = 16, .seal = true};
  if (!key) {
    memcpy(keying.cipher_key, plane_key, 16);
    memcpy(keying.salt, plane_key + 16, 4);
    key = aead_openssl.key_new(&keying);
    thread = aead_openssl.thread_new(40);
  }
  length &= ~(size_t)3;
  put32(packet, SPI_ANY);
  put32(packet + 4, (uint32_t)++numbers[0]);
  memset(packet + 8, 0, 4);
  put32(packet + 12, (uint32_t)numbers[0]);
  memcpy(packet + 16, text, length);
  struct aead_packet item = {.esp = packet, .text_length = length, .sequence = numbers[0]};
  aead_openssl.seal(thread, key, &item, 1);
  return 32 + length;
}

static size_t make(uint8_t how, struct fuzz_reader *in, uint8_t *packet) {
  static const uint8_t next_headers[] = {4, 41, 59};
  static uint8_t last[FUZZ_INPUT_MAX + 100];
  static size_t last_length;
  size_t length = fuzz_u16(in) % 2048;
  if (length > in->left) length = in->left;
  const uint8_t *data = in->data;
  in->data += length;
  in->left -= length;
  switch (how % 8) {
  case 0:
    memcpy(packet, data, length);
    return length;
  case 1:
    length = seal_text(packet, data, length);
    break;
  case 2: /* again, or nearly */
    memcpy(packet, last, last_length);
    if (how & 8 && last_length) packet[how % last_length] ^= 1;
    return last_length;
  case 3: /* behind a known SPI */
    put32(packet, SPI_ANY + (how >> 3) % 2);
    memcpy(packet + 4, data, length);
    return 4 + length;
  default: {
    size_t which = (how >> 3) % 2;
    uint8_t inner[2048] = {0};
    memcpy(inner, data, length);
    uint8_t next = how & 16 ? next_headers[(how >> 5) % 3] : inner[0] >> 4 == 6 ? 41 : 4;
    length = peer_seal(&peers[which], ++numbers[which], inner, length, next, packet);
  }
  }
  memcpy(last, packet, length);
  last_length = length;
  return length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz_reader in = {data, size};
  uint8_t packet[FUZZ_INPUT_MAX + 100];
  scene();
  struct worker *worker = &site.plane->workers[0];
  uint64_t before = dropped(), count = 0;
  delivered = 0;
  while (in.left > 0) {
    uint8_t how = fuzz_u8(&in);
    if (how == 0xff || copy_count == 256) finish_round(worker);
    from.ecn = how >> 6;
    size_t length = make(how, &in, packet);
    if (length == 0) continue; /* inbound_turn passes none on */
    uint8_t *copy = copies[copy_count++] = exact_copy(packet, length);
    from.data = copy;
    from.length = from.segment_size = length;
    classify(worker, &source, &from);
    count++;
  }
  finish_round(worker);
  struct event events[64];
  while (events_drain(site.plane, events, 64) == 64)
    continue;
  uint64_t ended = dropped() - before + punted() + delivered;
  if (ended != count) fprintf(stderr, "%zu of %zu\n", (size_t)ended, (size_t)count);
  CHECK(ended == count);
  return 0;
}

static size_t put_record(uint8_t *out, uint8_t how, const uint8_t *data, size_t length) {
  out[0] = how;
  put16(out + 1, length);
  memcpy(out + 3, data, length);
  return 3 + length;
}

static size_t fuzz_seed(size_t index, uint8_t *out) {
  static const uint8_t ways[] = {4, 12, 1, 0, 0x44, 0x84, 0xc4};
  size_t length = 0;
  if (index >= 28) return 0;
  for (uint32_t i = 0; i < 12; i++) {
    uint8_t inner[300];
    struct recipe recipe = {.ipv6 = index & 1,
                            .protocol = index & 2 ? P_UDP : P_TCP,
                            .flags = i == 5 ? 2 : 0x10,
                            .options = i == 5 ? 4 : 0,
                            .tos = 2,
                            .payload = 100,
                            .sequence = 100 * i};
    size_t octets = build(inner, &recipe);
    if (index & 2 && !(index & 1)) { /* inside the narrow selector, or nearly */
      put32(inner + 12, 0x0a010203);
      put32(inner + 16, 0x0a020304);
      put16(inner + 22, 9000);
    }
    if (i == 5 && recipe.protocol == P_TCP) put32(inner + l3_of(inner) + 20, 0x020405b4);
    memcpy(inner + octets, "\1\2\2\4", 4);
    length += put_record(out + length, ways[index / 4], inner, octets + 4);
  }
  out[length++] = 0;
  put16(out + length, 9);
  memcpy(out + length + 2, "\0\0\0\0IKE..", 9);
  return length + 11;
}
