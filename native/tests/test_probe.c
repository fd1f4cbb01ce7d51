/* The probe thread over loopback: what is sent and when, what is alive, what is told, silence, and whose a packet is.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "probe.h"
#include "udp.h"

#define MS   1000000u
#define WAIT 3000

static int fail_allocations; /* how many succeed before all fail; 0: none fails */
static atomic_bool refuse_sends;
static _Atomic unsigned refused_sends;

#define ALLOCATOR(name, parameters, arguments)                                                                         \
  void *__real_##name parameters;                                                                                      \
  void *__wrap_##name parameters;                                                                                      \
  void *__wrap_##name parameters {                                                                                     \
    if (fail_allocations && --fail_allocations == 0) {                                                                 \
      fail_allocations = 1;                                                                                            \
      return NULL;                                                                                                     \
    }                                                                                                                  \
    return __real_##name arguments;                                                                                    \
  }
ALLOCATOR(malloc, (size_t size), (size))
ALLOCATOR(calloc, (size_t count, size_t size), (count, size))
ALLOCATOR(realloc, (void *old, size_t size), (old, size))

ssize_t __real_sendto(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
ssize_t __wrap_sendto(int, const void *, size_t, int, const struct sockaddr *, socklen_t);
ssize_t __wrap_sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *name,
                      socklen_t name_length) {
  if (!atomic_load(&refuse_sends)) return __real_sendto(fd, data, length, flags, name, name_length);
  atomic_fetch_add(&refused_sends, 1);
  return -1;
}

static uint64_t clock_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A probe between two sockets on loopback: `ours` sends and listens, `peer` is the test. */
struct lab {
  struct probes *probes;
  int ours, peer;
  struct endpoint local, remote;
};

static void good(struct fault fault) {
  if (fault.sentence) fprintf(stderr, "fault: %s (%d)\n", fault.sentence, fault.os_error);
  CHECK(!fault.sentence);
}

static int socket_at(const char *host, struct endpoint *where) {
  struct sockaddr_in name = {.sin_family = AF_INET};
  struct sockaddr_storage bound;
  socklen_t length = sizeof bound;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), ttl = 255;
  CHECK(fd >= 0 && inet_pton(AF_INET, host, &name.sin_addr) == 1);
  CHECK(setsockopt(fd, IPPROTO_IP, IP_TTL, &ttl, sizeof ttl) == 0);
  CHECK(bind(fd, (struct sockaddr *)&name, sizeof name) == 0);
  CHECK(getsockname(fd, (struct sockaddr *)&bound, &length) == 0);
  CHECK(endpoint_from_sockaddr((struct sockaddr *)&bound, where));
  return fd;
}

static struct probe_path path_of(const struct lab *lab, uint32_t id, uint32_t key) {
  return (struct probe_path){.id = id,
                             .key = key,
                             .kind = PROBE_BFD,
                             .socket = lab->ours,
                             .local = lab->local,
                             .remote = lab->remote,
                             .least_hops = 255};
}

static struct lab lab_open(void) {
  struct lab lab;
  good(probes_start(&lab.probes));
  lab.ours = socket_at("127.0.0.1", &lab.local);
  lab.peer = socket_at("127.0.0.2", &lab.remote);
  good(probe_listen(lab.probes, lab.ours, PROBE_BFD));
  struct probe_path path = path_of(&lab, 1, 0x11);
  good(probe_add(lab.probes, &path));
  return lab;
}

static void lab_close(struct lab *lab) {
  probes_free(lab->probes);
  close(lab->ours);
  close(lab->peer);
}

/* 24 octets with a key where BFD has it. */
static void packet(uint8_t out[24], uint8_t flags, uint32_t key) {
  memset(out, 0x5a, 24);
  out[1] = flags;
  for (int i = 0; i < 4; i++)
    out[8 + i] = (uint8_t)(key >> (24 - 8 * i));
}

static struct probe_program program_of(uint64_t shortest_ms, uint64_t longest_ms, uint64_t detection_ms) {
  struct probe_program program = {.generation = 7,
                                  .length = 24,
                                  .expected_length = 24,
                                  .shortest_ns = shortest_ms * MS,
                                  .longest_ns = longest_ms * MS,
                                  .detection_ns = detection_ms * MS};
  packet(program.octets, 0x01, 0x22);
  packet(program.expected, 0xc0, 0x11);
  memset(program.alive, 0xff, 24);
  program.alive[1] = 0xc0; /* the rest of the flags is news, but alive */
  return program;
}

static void say_from(int fd, const struct lab *lab, const uint8_t *data, size_t length) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(lab->local.port)};
  memcpy(&to.sin_addr, lab->local.address, 4);
  CHECK(__real_sendto(fd, data, length, 0, (struct sockaddr *)&to, sizeof to) == (ssize_t)length);
}

static void say(const struct lab *lab, uint8_t flags, uint32_t key) {
  uint8_t data[24];
  packet(data, flags, key);
  say_from(lab->peer, lab, data, sizeof data);
}

static uint64_t hear(const struct lab *lab, uint8_t *out) {
  struct pollfd readable = {.fd = lab->peer, .events = POLLIN};
  CHECK(poll(&readable, 1, WAIT) == 1);
  CHECK(recv(lab->peer, out, 24, 0) == 24);
  return clock_now();
}

/* The next news; NULL after `patience_ms`. */
static struct probe_news *next_news(const struct lab *lab, int patience_ms) {
  struct pollfd readable = {.fd = probes_event_fd(lab->probes), .events = POLLIN};
  if (poll(&readable, 1, patience_ms) == 0) return NULL;
  struct probe_news *news = probes_news(lab->probes);
  CHECK(news && !news->next);
  return news;
}

static struct probe_statistics statistics_of(const struct lab *lab, uint64_t refused[PROBE_REFUSAL_COUNT]) {
  struct probe_statistics *rows, first;
  size_t count;
  good(probes_statistics(lab->probes, &rows, &count, refused));
  CHECK(count >= 1);
  first = rows[0];
  free(rows);
  return first;
}

static void test_packets_go_in_the_interval_with_jitter(void) {
  struct lab lab = lab_open();
  struct probe_program program = program_of(15, 20, 0);
  uint8_t heard[24];
  uint64_t shortest = UINT64_MAX, sum = 0;
  program.at_once = true;
  good(probe_arm(lab.probes, 1, &program));
  uint64_t before = hear(&lab, heard);
  CHECK(memcmp(heard, program.octets, 24) == 0);
  for (int i = 0; i < 30; i++) {
    uint64_t now = hear(&lab, heard), gap = now - before;
    shortest = gap < shortest ? gap : shortest;
    sum += gap;
    before = now;
  }
  CHECK(sum / 30 > 15 * MS);
  CHECK(shortest < 40 * MS);
  program.length = 0; /* nothing by itself any more */
  good(probe_arm(lab.probes, 1, &program));
  while (recv(lab.peer, heard, 24, MSG_DONTWAIT) > 0) {
  }
  struct pollfd readable = {.fd = lab.peer, .events = POLLIN};
  CHECK(poll(&readable, 1, 60) == 0);
  good(probe_send(lab.probes, 1, program.expected, 24));
  hear(&lab, heard);
  CHECK(memcmp(heard, program.expected, 24) == 0);
  lab_close(&lab);
}

static void test_a_shorter_interval_counts_from_the_packet_before(void) {
  struct lab lab = lab_open();
  struct probe_program program = program_of(60000, 60000, 0);
  uint8_t heard[24];
  program.at_once = true;
  good(probe_arm(lab.probes, 1, &program));
  hear(&lab, heard);
  program = program_of(10, 10, 0);
  good(probe_arm(lab.probes, 1, &program));
  hear(&lab, heard);
  lab_close(&lab);
}

static void test_what_is_expected_is_alive_and_not_told(void) {
  struct lab lab = lab_open();
  struct probe_program program = program_of(1000, 1000, 200);
  uint64_t refused[PROBE_REFUSAL_COUNT], last = 0;
  good(probe_arm(lab.probes, 1, &program));
  for (int i = 0; i < 10; i++) {
    say(&lab, 0xc0, 0x11);
    last = clock_now();
    struct probe_news *news = next_news(&lab, 40);
    CHECK(!news);
  }
  struct probe_news *news = next_news(&lab, WAIT);
  CHECK(news && news->expired && news->id == 1 && news->generation == 7 && news->length == 0);
  CHECK(news->at_ns >= last + 190 * MS);
  free(news);
  CHECK(!next_news(&lab, 250)); /* once */
  struct probe_statistics row = statistics_of(&lab, refused);
  CHECK(row.received == 10 && row.told == 0 && row.heard_ns > 0);
  lab_close(&lab);
}

static void test_news_are_told_and_alive_or_not_by_the_mask(void) {
  struct lab lab = lab_open();
  struct probe_program program = program_of(1000, 1000, 150);
  good(probe_arm(lab.probes, 1, &program));
  for (int i = 0; i < 8; i++) { /* 0xe0: another flag, the same in the bits of the mask */
    say(&lab, 0xe0, 0x11);
    struct probe_news *news = next_news(&lab, WAIT);
    CHECK(news && !news->expired && news->length == 24 && news->octets[1] == 0xe0);
    free(news);
    usleep(40000);
  }
  uint64_t began = clock_now();
  bool expired = false;
  while (!expired) { /* 0x40: not alive, so the time runs out in spite of it */
    say(&lab, 0x40, 0x11);
    struct probe_news *news = next_news(&lab, 30);
    if (!news) continue;
    expired = news->expired;
    free(news);
    CHECK(clock_now() - began < 2000 * (uint64_t)MS);
  }
  lab_close(&lab);
}

static void test_without_an_expectation_all_is_told_but_not_without_end(void) {
  struct lab lab = lab_open();
  struct probe_program program = program_of(1000, 1000, 0);
  uint64_t refused[PROBE_REFUSAL_COUNT];
  program.expected_length = 0;
  good(probe_arm(lab.probes, 1, &program));
  unsigned told = 0;
  for (int i = 0; i < 1000; i++)
    say(&lab, (uint8_t)i, 0x11);
  usleep(100000);
  struct probe_news *news = probes_news(lab.probes), *next;
  for (; news; news = next, told++) {
    next = news->next;
    free(news);
  }
  statistics_of(&lab, refused);
  CHECK(told >= 64 && told <= 200); /* two seconds may have been met */
  CHECK(refused[PROBE_REFUSED_SUPPRESSED] > 0);
  lab_close(&lab);
}

static void test_whose_a_packet_is(void) {
  struct lab lab = lab_open();
  struct probe_program program = program_of(1000, 1000, 0);
  struct endpoint other;
  uint64_t refused[PROBE_REFUSAL_COUNT];
  uint8_t data[24];
  int stranger = socket_at("127.0.0.3", &other), ttl = 254;
  program.expected_length = 0;
  good(probe_arm(lab.probes, 1, &program));
  packet(data, 0x40, 0x11);
  say_from(stranger, &lab, data, 24); /* our key from elsewhere */
  packet(data, 0x40, 0);
  say_from(stranger, &lab, data, 24); /* no key, nobody's address */
  say(&lab, 0x40, 0x12);              /* nobody's key */
  say_from(lab.peer, &lab, data, 23); /* short */
  CHECK(setsockopt(lab.peer, IPPROTO_IP, IP_TTL, &ttl, sizeof ttl) == 0);
  say(&lab, 0x40, 0x11); /* RFC 5881 5: forwarded */
  CHECK(!next_news(&lab, 100));
  statistics_of(&lab, refused);
  CHECK(refused[PROBE_REFUSED_ADDRESS] == 1 && refused[PROBE_REFUSED_UNKNOWN] == 2);
  CHECK(refused[PROBE_REFUSED_SHORT] == 1 && refused[PROBE_REFUSED_HOPS] == 1);
  ttl = 255;
  CHECK(setsockopt(lab.peer, IPPROTO_IP, IP_TTL, &ttl, sizeof ttl) == 0);
  say(&lab, 0x40, 0); /* no key: by its addresses */
  struct probe_news *news = next_news(&lab, WAIT);
  CHECK(news && news->id == 1);
  free(news);
  close(stranger);
  lab_close(&lab);
}

static void test_sessions_with_one_neighbor_are_told_apart_by_interface(void) {
  struct lab lab = lab_open();
  struct probe_program program = program_of(1000, 1000, 0);
  uint32_t ids[] = {2, 3, 4};
  program.expected_length = 0;
  for (size_t i = 0; i < 3; i++) {
    struct probe_path path = path_of(&lab, ids[i], 0x20 + ids[i]);
    path.interface = i == 1 ? 1 : 1000 + ids[i]; /* loopback is 1 */
    good(probe_add(lab.probes, &path));
    good(probe_arm(lab.probes, ids[i], &program));
  }
  good(probe_remove(lab.probes, 1)); /* the first of the chain: it had no interface */
  say(&lab, 0x40, 0);
  struct probe_news *news = next_news(&lab, WAIT);
  CHECK(news && news->id == 3);
  free(news);
  good(probe_remove(lab.probes, 4));
  good(probe_remove(lab.probes, 2));
  good(probe_remove(lab.probes, 2));
  say(&lab, 0x40, 0);
  news = next_news(&lab, WAIT);
  CHECK(news && news->id == 3);
  free(news);
  lab_close(&lab);
}

static void test_refusals_name_what_is_wrong(void) {
  struct lab lab = lab_open();
  struct probe_program program = program_of(0, 0, 0);
  struct probe_path path = path_of(&lab, 1, 0x99);
  CHECK(probe_add(lab.probes, &path).sentence);
  path = path_of(&lab, 2, 0x11);
  CHECK(probe_add(lab.probes, &path).sentence);
  path = path_of(&lab, 2, 0);
  CHECK(probe_add(lab.probes, &path).sentence);
  CHECK(probe_arm(lab.probes, 1, &program).sentence);
  CHECK(probe_arm(lab.probes, 9, &program).sentence);
  CHECK(probe_send(lab.probes, 9, program.octets, 24).sentence);
  CHECK(probe_listen(lab.probes, -1, PROBE_BFD).os_error);
  good(probe_unlisten(lab.probes, 12345));
  probes_stop(lab.probes);
  CHECK(probe_remove(lab.probes, 1).sentence);
  lab_close(&lab);
}

/* How many of the probes beside the first have sent, or tried to, less often than `times`. */
static size_t behind(const struct lab *lab, uint64_t times, size_t *count) {
  uint64_t refused[PROBE_REFUSAL_COUNT];
  struct probe_statistics *rows;
  size_t found = 0;
  good(probes_statistics(lab->probes, &rows, count, refused));
  for (size_t i = 0; i < *count; i++)
    found += rows[i].id != 1 && rows[i].sent + rows[i].send_failed < times;
  free(rows);
  return found;
}

/* Random times; every probe that is due is served, in whatever order they were added and removed. */
static void test_many_probes_are_all_served(void) {
  enum { MANY = 300 };
  struct lab lab = lab_open();
  for (uint32_t id = 2; id < MANY; id++) {
    struct probe_path path = path_of(&lab, id, id + 1000);
    struct probe_program program = program_of(5 + random_below(20), 30, 0);
    good(probe_add(lab.probes, &path));
    good(probe_arm(lab.probes, id, &program));
  }
  for (uint32_t id = 2; id < MANY; id += 3)
    good(probe_remove(lab.probes, id));
  size_t count;
  uint64_t began = clock_now();
  while (behind(&lab, 3, &count) && clock_now() - began < WAIT * (uint64_t)MS)
    usleep(10000);
  CHECK(behind(&lab, 3, &count) == 0);
  CHECK(count == MANY - 1 - (MANY - 2 + 2) / 3);
  lab_close(&lab);
}

static void test_what_the_kernel_refuses_is_counted_and_tried_again(void) {
  struct lab lab = lab_open();
  struct probe_program program = program_of(5, 5, 0);
  uint64_t refused[PROBE_REFUSAL_COUNT];
  uint8_t heard[24];
  atomic_store(&refuse_sends, true);
  good(probe_arm(lab.probes, 1, &program));
  while (atomic_load(&refused_sends) < 3)
    usleep(1000);
  atomic_store(&refuse_sends, false);
  hear(&lab, heard);
  CHECK(statistics_of(&lab, refused).send_failed >= 3);
  lab_close(&lab);
}

/* The packets of a peer that waited unread while this process stood still count before the silence does. */
static void test_what_waits_is_read_before_silence_counts(void) {
  struct lab lab = lab_open();
  struct probe_program program = program_of(1000, 1000, 300);
  good(probe_arm(lab.probes, 1, &program));
  pid_t self = getpid();
  pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) { /* stops the parent for longer than the detection time, and speaks for the peer meanwhile */
    usleep(50000);
    kill(self, SIGSTOP);
    for (int i = 0; i < 10; i++) {
      usleep(60000);
      say(&lab, 0xc0, 0x11);
    }
    kill(self, SIGCONT);
    _exit(0);
  }
  uint64_t began = clock_now();
  struct probe_news *news;
  do {
    news = next_news(&lab, 20);
  } while (!news && clock_now() - began < 700 * (uint64_t)MS);
  CHECK(!news); /* stopped for 600 ms, and alive */
  news = next_news(&lab, WAIT);
  CHECK(news && news->expired);
  free(news);
  CHECK(waitpid(child, NULL, 0) == child);
  lab_close(&lab);
}

/* Where the machine itself stood still there is nothing to read: the peer gets as long again, and no longer. */
static void test_who_was_late_listens_once_more(void) {
  for (int speaks = 1; speaks >= 0; speaks--) {
    struct lab lab = lab_open();
    struct probe_program program = program_of(1000, 1000, 200);
    good(probe_arm(lab.probes, 1, &program));
    pid_t self = getpid();
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      usleep(50000);
      kill(self, SIGSTOP);
      usleep(500000);
      kill(self, SIGCONT);
      usleep(80000);
      if (speaks) say(&lab, 0xc0, 0x11);
      _exit(0);
    }
    usleep(100000);
    uint64_t went_on = clock_now();
    CHECK(waitpid(child, NULL, 0) == child);
    struct probe_news *news = next_news(&lab, WAIT);
    CHECK(news && news->expired);
    /* Spoken to it expires a detection time after that, else a detection time after it went on. */
    CHECK(news->at_ns >= went_on + (speaks ? 230 : 130) * (uint64_t)MS);
    free(news);
    lab_close(&lab);
  }
}

static void test_every_allocation_may_fail(void) {
  struct lab lab = lab_open();
  for (uint32_t id = 100; id < 140; id++) { /* the tables grow on the way */
    struct probe_path path = path_of(&lab, id, id);
    path.remote.address[3] = (uint8_t)id;
    for (int good_ones = 1;; good_ones++) {
      fail_allocations = good_ones;
      struct fault fault = probe_add(lab.probes, &path);
      fail_allocations = 0;
      if (!fault.sentence) break;
      CHECK(strcmp(fault.sentence, "out of memory") == 0);
    }
  }
  for (uint32_t id = 100; id < 140; id++)
    good(probe_remove(lab.probes, id));
  lab_close(&lab);
  struct probes *probes;
  fail_allocations = 1;
  CHECK(probes_start(&probes).sentence && !probes);
  fail_allocations = 0;
}

int main(void) {
  RUN(test_packets_go_in_the_interval_with_jitter);
  RUN(test_a_shorter_interval_counts_from_the_packet_before);
  RUN(test_what_is_expected_is_alive_and_not_told);
  RUN(test_news_are_told_and_alive_or_not_by_the_mask);
  RUN(test_without_an_expectation_all_is_told_but_not_without_end);
  RUN(test_whose_a_packet_is);
  RUN(test_sessions_with_one_neighbor_are_told_apart_by_interface);
  RUN(test_refusals_name_what_is_wrong);
  RUN(test_many_probes_are_all_served);
  RUN(test_what_the_kernel_refuses_is_counted_and_tried_again);
  RUN(test_what_waits_is_read_before_silence_counts);
  RUN(test_who_was_late_listens_once_more);
  RUN(test_every_allocation_may_fail);
  return 0;
}
