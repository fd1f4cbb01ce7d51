/* Request/response latency over UDP, one request under way at a time.
 *
 *   udp_rr serve ADDRESS PORT            echoes until it is ended; says "ready" first
 *   udp_rr ask ADDRESS PORT SIZE SECONDS prints {"count", "lost", "p50_us", "p99_us"}
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define SAMPLES_MAX (1 << 21)
#define ROOM        2048

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "udp_rr: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int64_t nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static struct sockaddr_in name_of(const char *address, const char *port) {
  struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  if (inet_pton(AF_INET, address, &name.sin_addr) != 1) fail("address");
  return name;
}

static int serve(const char *address, const char *port) {
  struct sockaddr_in name = name_of(address, port);
  uint8_t data[ROOM];
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof name) < 0) fail("bind");
  printf("ready\n");
  fflush(stdout);
  for (;;) {
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    ssize_t got = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length);
    if (got >= 0) sendto(fd, data, (size_t)got, 0, (struct sockaddr *)&from, length);
  }
}

static int by_value(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

static int ask(const char *address, const char *port, size_t size, double seconds) {
  static uint32_t samples[SAMPLES_MAX];
  uint8_t data[ROOM] = {0}, answer[ROOM];
  struct sockaddr_in name = name_of(address, port);
  struct timeval wait = {0, 200000};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&name, sizeof name) < 0) fail("connect");
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  size_t count = 0;
  uint64_t lost = 0, number = 0;
  int64_t stop = nanoseconds() + (int64_t)(seconds * 1e9), start = 0;
  while (count < SAMPLES_MAX && (start = nanoseconds()) < stop) {
    number++;
    memcpy(data, &number, sizeof number);
    if (send(fd, data, size, 0) < 0 && errno != ECONNREFUSED) fail("send");
    ssize_t got;
    do /* an answer that came after its time-out is not this one's */
      got = recv(fd, answer, sizeof answer, 0);
    while (got == (ssize_t)size && memcmp(answer, &number, sizeof number) != 0);
    if (got == (ssize_t)size)
      samples[count++] = (uint32_t)(nanoseconds() - start);
    else
      lost++;
  }
  qsort(samples, count, sizeof samples[0], by_value);
  double p50 = count ? samples[count / 2] / 1e3 : 0, p99 = count ? samples[count * 99 / 100] / 1e3 : 0;
  printf("{\"count\": %zu, \"lost\": %llu, \"p50_us\": %.3f, \"p99_us\": %.3f}\n", count, (unsigned long long)lost, p50,
         p99);
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 4 && !strcmp(argv[1], "serve")) return serve(argv[2], argv[3]);
  if (argc == 6 && !strcmp(argv[1], "ask") && atoi(argv[4]) >= 8 && atoi(argv[4]) <= ROOM)
    return ask(argv[2], argv[3], (size_t)atoi(argv[4]), atof(argv[5]));
  fprintf(stderr, "usage: udp_rr serve|ask ...\n");
  return 2;
}
