#include "memory_plane.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "clock.h"
#include "tun.h"
#include "udp.h"

#define FIRST_SPI        0x10000u
#define REPLAY_WINDOW    65536 /* two threads may be apart by as much */
#define INNER_MTU        9000
#define PEER_PORT        4500
#define UNKNOWN_PROTOCOL 253 /* RFC 3692: nothing coalesces it */

_Thread_local struct feed *feed;

static const uint8_t source_address[4] = {10, 1, 0, 1}, destination_address[4] = {10, 2, 0, 1};
static const uint8_t peer_address[4] = {192, 0, 2, 1};

/* ---- what the linker puts in the kernel's place ---- */

ssize_t __real_readv(int fd, const struct iovec *pieces, int count);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
int __real_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
int __real_recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout);
ssize_t __real_writev(int fd, const struct iovec *pieces, int count);
int __real_ioctl(int fd, unsigned long request, void *argument);

ssize_t __wrap_readv(int fd, const struct iovec *pieces, int count);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags);
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout);
ssize_t __wrap_writev(int fd, const struct iovec *pieces, int count);
int __wrap_ioctl(int fd, unsigned long request, void *argument);

/* The virtio header, then the packet: short enough for the second piece. */
static ssize_t feed_read(const struct iovec *pieces) {
  struct feed *f = feed;
  if (f->readable == 0) {
    errno = EAGAIN;
    return -1;
  }
  f->readable--;
  size_t length = f->packet_length - VNET_OCTETS;
  if (pieces[0].iov_len != VNET_OCTETS || pieces[1].iov_len < length) die("the packet does not fit");
  memcpy(pieces[0].iov_base, f->packet, VNET_OCTETS);
  memcpy(pieces[1].iov_base, f->packet + VNET_OCTETS, length);
  return (ssize_t)f->packet_length;
}

ssize_t __wrap_readv(int fd, const struct iovec *pieces, int count) {
  return feed ? feed_read(pieces) : __real_readv(fd, pieces, count);
}

static size_t feed_send(const struct msghdr *message) {
  struct feed *f = feed;
  size_t octets = 0;
  for (size_t i = 0; i < message->msg_iovlen; i++) {
    const struct iovec *piece = &message->msg_iov[i];
    if (f->room) {
      if (f->stored * f->sealed_length + octets + piece->iov_len > f->room * f->sealed_length) die("the store is full");
      memcpy(f->store + f->stored * f->sealed_length + octets, piece->iov_base, piece->iov_len);
    }
    octets += piece->iov_len;
  }
  size_t packets = octets / f->sealed_length;
  if (packets * f->sealed_length != octets) die("a send is not a whole number of packets");
  f->sent += packets;
  if (f->room) f->stored += packets;
  return octets;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags) {
  return feed ? (ssize_t)feed_send(message) : __real_sendmsg(fd, message, flags);
}

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
  if (!feed) return __real_sendmmsg(fd, messages, count, flags);
  for (unsigned i = 0; i < count; i++)
    messages[i].msg_len = (unsigned)feed_send(&messages[i].msg_hdr);
  return (int)count;
}

/* As a socket with UDP_GRO fills a message: the sender, the octets, the size of a segment. */
static void deliver(struct mmsghdr *message, const uint8_t *data, size_t length, size_t segment) {
  struct msghdr *header = &message->msg_hdr;
  struct sockaddr_in *name = header->msg_name;
  int size = (int)segment;
  if (header->msg_iov[0].iov_len < length) die("a receive slot is too small");
  memcpy(header->msg_iov[0].iov_base, data, length);
  message->msg_len = (unsigned)length;
  *name = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(PEER_PORT)};
  memcpy(&name->sin_addr, peer_address, 4);
  header->msg_namelen = sizeof *name;
  header->msg_flags = 0;
  struct cmsghdr *control = header->msg_control;
  control->cmsg_level = IPPROTO_UDP;
  control->cmsg_type = UDP_GRO;
  control->cmsg_len = CMSG_LEN(sizeof size);
  memcpy(CMSG_DATA(control), &size, sizeof size);
  header->msg_controllen = CMSG_SPACE(sizeof size);
}

int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout) {
  struct feed *f = feed;
  if (!f) return __real_recvmmsg(fd, messages, count, flags, timeout);
  uint64_t start = nanoseconds();
  if (f->next >= f->stored) {
    errno = EAGAIN;
    return -1;
  }
  size_t packets = f->stored - f->next < f->step ? f->stored - f->next : f->step;
  deliver(&messages[0], f->store + f->next * f->sealed_length, packets * f->sealed_length, f->sealed_length);
  f->next += f->step + f->skip;
  f->outside_ns += nanoseconds() - start;
  return 1;
}

ssize_t __wrap_writev(int fd, const struct iovec *pieces, int count) {
  if (!feed) return __real_writev(fd, pieces, count);
  size_t octets = 0;
  for (int i = 0; i < count; i++)
    octets += pieces[i].iov_len;
  feed->written++;
  return (ssize_t)octets;
}

/* Only TUNSETVNETHDRSZ and TUNSETOFFLOAD are asked for, on fds that are no TUN. */
int __wrap_ioctl(int fd, unsigned long request, void *argument) {
  (void)fd, (void)request, (void)argument;
  return 0;
}

/* ---- the plane ---- */

static void expect(struct fault fault) {
  if (!fault.sentence) return;
  errno = fault.os_error;
  if (fault.os_error) perror(fault.sentence);
  die(fault.sentence);
}

/* An IPv4 packet of a protocol that nobody merges, behind an empty virtio header. */
static void make_packet(struct memory_plane *memory) {
  memory->packet_length = VNET_OCTETS + memory->inner_length;
  memory->packet = calloc(1, memory->packet_length);
  if (!memory->packet) die("out of memory");
  uint8_t *ip = memory->packet + VNET_OCTETS;
  ip[0] = 0x45;
  ip[2] = (uint8_t)(memory->inner_length >> 8);
  ip[3] = (uint8_t)memory->inner_length;
  ip[8] = 64;
  ip[9] = UNKNOWN_PROTOCOL;
  memcpy(ip + 12, source_address, 4);
  memcpy(ip + 16, destination_address, 4);
  uint32_t sum = 0;
  for (int i = 0; i < 20; i += 2)
    sum += (uint32_t)ip[i] << 8 | ip[i + 1];
  sum = (sum & 0xffff) + (sum >> 16);
  sum = ~((sum & 0xffff) + (sum >> 16));
  ip[10] = (uint8_t)(sum >> 8);
  ip[11] = (uint8_t)sum;
  for (size_t i = 20; i < memory->inner_length; i++)
    ip[i] = (uint8_t)(i * 7);
}

static struct endpoint endpoint_of(const uint8_t address[4]) {
  struct endpoint endpoint = {.port = PEER_PORT, .family = AF_INET};
  memcpy(endpoint.address, address, 4);
  return endpoint;
}

static struct address prefix(const uint8_t address[4], uint32_t host) {
  return (struct address){0, (uint32_t)address[0] << 24 | (uint32_t)address[1] << 16 | host};
}

static void add_sa(struct memory_plane *memory, const struct suite_choice *suite, unsigned number, bool inbound,
                   int fd) {
  static const uint8_t key[64] = {9, 8, 7};
  const uint8_t *local = inbound ? destination_address : source_address;
  const uint8_t *remote = inbound ? source_address : destination_address;
  struct selector selector = {
      .local_first = prefix(local, 0),
      .local_last = prefix(local, 0xffff),
      .remote_first = prefix(remote, 0),
      .remote_last = prefix(remote, 0xffff),
      .local_port_last = 0xffff,
      .remote_port_last = 0xffff,
  };
  struct sa_request request = {
      .inbound = inbound,
      .encapsulate = true,
      .connection = number + 1,
      .spi = FIRST_SPI + number,
      .suite = suite->suite,
      .encryption_key = key,
      .integrity_key = key,
      .encryption_key_length = suite->key_length,
      .integrity_key_length = suite->integrity_length,
      .local = endpoint_of((const uint8_t[4]){127, 0, 0, 1}),
      .remote = endpoint_of(peer_address),
      .selectors = &selector,
      .selector_count = 1,
      .replay_window = memory->connections == 1 ? REPLAY_WINDOW : 4096,
      .socket = inbound ? -1 : fd,
      .worker = ANY_WORKER,
  };
  expect(sa_add(memory->plane, &request));
}

static int udp_socket(void) {
  struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name) < 0) die("no UDP socket");
  return fd;
}

static void add_connection(struct memory_plane *memory, const struct suite_choice *suite, unsigned number, int fd) {
  int queues[WORKERS_MAX];
  for (unsigned w = 0; w < memory->workers; w++)
    if ((queues[w] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
      die("no eventfd: is the limit of open files too low?");
  expect(connection_add(memory->plane, number + 1, queues, memory->workers, INNER_MTU));
  memory->by_number[number] = connection_find(memory->plane, number + 1);
  add_sa(memory, suite, number, true, -1);
  add_sa(memory, suite, number, false, fd);
  expect(policies_replace(memory->plane, number + 1, &(uint32_t){FIRST_SPI + number}, 1));
}

struct memory_plane *memory_plane_new(const struct suite_choice *suite, size_t inner_length, unsigned connections,
                                      unsigned workers) {
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  struct memory_plane *memory = calloc(1, sizeof *memory);
  if (!memory || !(memory->by_number = calloc(connections, sizeof *memory->by_number))) die("out of memory");
  memory->connections = connections;
  memory->workers = workers;
  memory->inner_length = inner_length;
  expect(dataplane_start(workers, ESP_ENGINE_AUTO, &memory->plane));
  int first = -1;
  for (unsigned w = 0; w < workers; w++) {
    int fd = udp_socket();
    if (w == 0) first = fd;
    expect(socket_add(memory->plane, w, fd));
  }
  for (unsigned i = 0; i < connections; i++)
    add_connection(memory, suite, i, first);
  const struct sa *sa = sa_find(memory->plane, false, 1, FIRST_SPI);
  memory->header_length = esp_header_length(sa->key);
  memory->sealed_length = esp_sealed_length(sa->key, inner_length);
  make_packet(memory);
  return memory;
}

void memory_plane_free(struct memory_plane *memory) {
  int fds[WORKERS_MAX];
  unsigned count = 0;
  for (const struct source *source = memory->plane->sockets; source; source = source->next)
    fds[count++] = source->fd;
  size_t queues = 0;
  int *queue_fds = calloc((size_t)memory->connections * memory->workers, sizeof *queue_fds);
  for (unsigned i = 0; queue_fds && i < memory->connections; i++)
    for (unsigned w = 0; w < memory->workers; w++)
      queue_fds[queues++] = memory_queue(memory, i, w)->fd;
  dataplane_free(memory->plane);
  while (count > 0)
    close(fds[--count]);
  while (queues > 0)
    close(queue_fds[--queues]);
  free(queue_fds);
  free(memory->by_number);
  free(memory->packet);
  free(memory);
}

struct source *memory_queue(const struct memory_plane *memory, unsigned connection, unsigned worker) {
  return &memory->by_number[connection]->queues[worker];
}

struct source *memory_socket(const struct memory_plane *memory, unsigned worker) {
  for (struct source *source = memory->plane->sockets; source; source = source->next)
    if (source->worker == &memory->plane->workers[worker]) return source;
  die("a worker has no socket");
}

void memory_feed(const struct memory_plane *memory, struct feed *out, size_t room) {
  *out = (struct feed){.packet = memory->packet,
                       .packet_length = memory->packet_length,
                       .sealed_length = memory->sealed_length,
                       .room = room};
  if (room && !(out->store = malloc(room * memory->sealed_length))) die("out of memory");
}

void memory_feed_free(struct feed *old) {
  free(old->store);
}

uint64_t memory_drops(const struct memory_plane *memory) {
  struct drop_row *rows = NULL;
  size_t count = 0;
  uint64_t total = 0;
  expect(dataplane_drops(memory->plane, &rows, &count));
  for (size_t i = 0; i < count; i++)
    total += rows[i].packets;
  free(rows);
  return total;
}
