/* UDP load for the benchmarks: single datagrams at a fixed rate, a flood of
 * super-packets, and a sink that counts.
 *
 *   udp_load send ADDRESS PORT SIZE RATE SECONDS      sendmsg with UDP_SEGMENT
 * at a rate; the caller has seen to it that the device takes single datagrams
 * only (gso_max_segs 1) udp_load flood ADDRESS PORT SIZE SEGMENTS SECONDS
 * sendmsg with UDP_SEGMENT, as fast as it goes udp_load sink ADDRESS PORT
 * SECONDS                counts until a datagram says the end, or for SECONDS
 *
 * Every mode prints one JSON object; the sink first says "ready". IPv4 only.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH_MAX 60
#define SIZE_MAX_ 2048
#define SLOTS 256
#define SOCKET_BUFFER (64 << 20)
#define BATCH_SECONDS                                                          \
  200e-6 /* a batch every so long, so that the pacing sleeps instead of        \
            spinning */
#define LATENESS                                                               \
  1000000 /* ns; further behind, the schedule starts anew: a catching-up burst \
             would be lost */
#define END_COPIES 20
#define END_PAUSE 10000000 /* ns between them: the tunnel may still drop some  \
                            */
#define SETTLE 200000000

static const uint32_t data_magic = 0x62656e63, end_magic = 0x656e6421;

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "udp_load: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int64_t nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void sleep_until(int64_t moment) {
  struct timespec t = {moment / 1000000000, moment % 1000000000};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
    continue;
}

static struct sockaddr_in name_of(const char *address, const char *port) {
  struct sockaddr_in name = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)atoi(port))};
  if (inet_pton(AF_INET, address, &name.sin_addr) != 1)
    fail("address");
  return name;
}

static int connected(const char *address, const char *port) {
  struct sockaddr_in name = name_of(address, port);
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0),
      octets = SOCKET_BUFFER;
  if (fd < 0 || connect(fd, (struct sockaddr *)&name, sizeof name) < 0)
    fail("connect");
  setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &octets, sizeof octets);
  return fd;
}

/* The end is told several times, after what is under way has had time to
 * arrive. */
static void say_end(int fd) {
  int64_t next = nanoseconds() + SETTLE;
  for (int i = 0; i < END_COPIES; i++) {
    sleep_until(next);
    next += END_PAUSE;
    if (send(fd, &end_magic, sizeof end_magic, 0) < 0 &&
        errno != ECONNREFUSED && errno != ENOBUFS)
      fail("send");
  }
}

static void report(uint64_t sent, uint64_t refused, int64_t elapsed) {
  printf("{\"sent\": %llu, \"refused\": %llu, \"seconds\": %.6f}\n",
         (unsigned long long)sent, (unsigned long long)refused,
         (double)elapsed / 1e9);
}

union segment_control {
  struct cmsghdr align;
  uint8_t octets[CMSG_SPACE(sizeof(uint16_t))];
};

/* One message that the kernel cuts into datagrams of `size` octets. */
static struct msghdr cut_message(struct iovec *piece,
                                 union segment_control *control, size_t size) {
  struct msghdr message = {.msg_iov = piece,
                           .msg_iovlen = 1,
                           .msg_control = control,
                           .msg_controllen = sizeof *control};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  uint16_t segment = (uint16_t)size;
  header->cmsg_level = IPPROTO_UDP;
  header->cmsg_type = UDP_SEGMENT;
  header->cmsg_len = CMSG_LEN(sizeof segment);
  memcpy(CMSG_DATA(header), &segment, sizeof segment);
  return message;
}

/* How many of a message's datagrams left. */
static unsigned send_message(int fd, const struct msghdr *message,
                             unsigned count) {
  if (sendmsg(fd, message, 0) >= 0)
    return count;
  if (errno != ENOBUFS && errno != ECONNREFUSED && errno != EAGAIN)
    fail("sendmsg");
  return 0;
}

static int send_paced(const char *address, const char *port, size_t size,
                      double rate, double seconds) {
  static uint8_t payload[BATCH_MAX * SIZE_MAX_];
  union segment_control control = {0};
  int fd = connected(address, port);
  double wanted = rate * BATCH_SECONDS;
  unsigned batch = wanted < 1           ? 1
                   : wanted > BATCH_MAX ? BATCH_MAX
                                        : (unsigned)wanted;
  if (size * batch > 65000)
    batch = (unsigned)(65000 / size);
  for (unsigned i = 0; i < batch; i++)
    memcpy(payload + i * size, &data_magic, sizeof data_magic);
  struct iovec piece = {payload, size * batch};
  struct msghdr message = cut_message(&piece, &control, size);
  prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0);
  uint64_t sent = 0, refused = 0;
  int64_t start = nanoseconds(), stop = start + (int64_t)(seconds * 1e9),
          next = start, now = start;
  double due = (double)start, step = batch / rate * 1e9;
  while (now < stop) {
    unsigned left = send_message(fd, &message, batch);
    sent += left;
    refused += batch - left;
    due += step;
    next = (int64_t)due;
    now = nanoseconds();
    if (now > next + LATENESS)
      due = (double)now;
    if (now < next) {
      sleep_until(next);
      now = nanoseconds();
    }
  }
  int64_t elapsed = now - start;
  say_end(fd);
  report(sent, refused, elapsed);
  return 0;
}

static int send_flood(const char *address, const char *port, size_t size,
                      size_t segments, double seconds) {
  static uint8_t payload[65507];
  union segment_control control = {0};
  int fd = connected(address, port);
  if (size * segments > sizeof payload) {
    errno = EMSGSIZE;
    fail("flood");
  }
  struct iovec piece = {payload, size * segments};
  struct msghdr message = cut_message(&piece, &control, size);
  uint64_t sent = 0, refused = 0;
  int64_t start = nanoseconds(), stop = start + (int64_t)(seconds * 1e9),
          now = start;
  for (; now < stop; now = nanoseconds()) {
    unsigned left = send_message(fd, &message, (unsigned)segments);
    sent += left;
    refused += segments - left;
  }
  report(sent, refused, now - start);
  return 0;
}

static int sink(const char *address, const char *port, double seconds) {
  static uint8_t data[SLOTS][SIZE_MAX_];
  static struct mmsghdr messages[SLOTS];
  static struct iovec pieces[SLOTS];
  struct sockaddr_in name = name_of(address, port);
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0),
      octets = SOCKET_BUFFER;
  if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name) < 0)
    fail("bind");
  setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &octets, sizeof octets);
  struct timeval wait = {0, 100000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  for (int i = 0; i < SLOTS; i++) {
    pieces[i] = (struct iovec){data[i], sizeof data[i]};
    messages[i].msg_hdr =
        (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
  }
  printf("ready\n");
  fflush(stdout);
  uint64_t received = 0, foreign = 0, bytes = 0;
  int64_t stop = nanoseconds() + (int64_t)(seconds * 1e9);
  bool ended = false;
  while (!ended && nanoseconds() < stop) {
    int count = recvmmsg(fd, messages, SLOTS, MSG_WAITFORONE, NULL);
    for (int i = 0; i < count; i++) {
      uint32_t magic = 0;
      memcpy(&magic, data[i], sizeof magic);
      bool ours = magic == data_magic;
      received += ours;
      bytes += ours ? messages[i].msg_len : 0;
      ended |= magic == end_magic;
      foreign += !ours && magic != end_magic;
    }
  }
  printf("{\"received\": %llu, \"bytes\": %llu, \"foreign\": %llu, \"ended\": "
         "%s}\n",
         (unsigned long long)received, (unsigned long long)bytes,
         (unsigned long long)foreign, ended ? "true" : "false");
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 7 && !strcmp(argv[1], "send") && atoi(argv[4]) >= 4 &&
      atoi(argv[4]) <= SIZE_MAX_)
    return send_paced(argv[2], argv[3], (size_t)atoi(argv[4]), atof(argv[5]),
                      atof(argv[6]));
  if (argc == 7 && !strcmp(argv[1], "flood"))
    return send_flood(argv[2], argv[3], (size_t)atoi(argv[4]),
                      (size_t)atoi(argv[5]), atof(argv[6]));
  if (argc == 5 && !strcmp(argv[1], "sink"))
    return sink(argv[2], argv[3], atof(argv[4]));
  fprintf(stderr, "usage: udp_load send|flood|sink ...\n");
  return 2;
}
