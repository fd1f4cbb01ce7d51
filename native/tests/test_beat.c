/* Heartbeats of the probe thread over loopback: what is sealed, what is echoed, what nobody moves, and when it ends. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <poll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "probe.h"
#include "udp.h"

#define MS      1000000u
#define WAIT    3000
#define HEADER  36
#define BODY    200
#define TAG     16
#define MESSAGE (HEADER + BODY + TAG)
#define PATH    3

static int fail_allocations; /* how many succeed before all fail; 0: none fails */

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

EVP_CIPHER_CTX *__real_EVP_CIPHER_CTX_new(void);
EVP_CIPHER_CTX *__wrap_EVP_CIPHER_CTX_new(void);
EVP_CIPHER_CTX *__wrap_EVP_CIPHER_CTX_new(void) {
  if (fail_allocations && --fail_allocations == 0) {
    fail_allocations = 1;
    return NULL;
  }
  return __real_EVP_CIPHER_CTX_new();
}

static uint64_t clock_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t load(const uint8_t *in, size_t octets) {
  uint64_t value = 0;
  for (size_t i = 0; i < octets; i++)
    value = value << 8 | in[i];
  return value;
}

static void store(uint8_t *out, size_t octets, uint64_t value) {
  for (size_t i = octets; i-- > 0; value >>= 8)
    out[i] = (uint8_t)value;
}

static void good(struct fault fault) {
  if (fault.sentence) fprintf(stderr, "fault: %s (%d)\n", fault.sentence, fault.os_error);
  CHECK(!fault.sentence);
}

struct lab {
  struct probes *probes;
  int ours, peer;
  struct endpoint local, remote;
};

static int socket_at(const char *host, struct endpoint *where) {
  struct sockaddr_in name = {.sin_family = AF_INET};
  struct sockaddr_storage bound;
  socklen_t length = sizeof bound;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  CHECK(fd >= 0 && inet_pton(AF_INET, host, &name.sin_addr) == 1);
  CHECK(bind(fd, (struct sockaddr *)&name, sizeof name) == 0);
  CHECK(getsockname(fd, (struct sockaddr *)&bound, &length) == 0);
  CHECK(endpoint_from_sockaddr((struct sockaddr *)&bound, where));
  return fd;
}

static struct lab lab_open(void) {
  struct lab lab;
  good(probes_start(&lab.probes));
  lab.ours = socket_at("127.0.0.1", &lab.local);
  lab.peer = socket_at("127.0.0.2", &lab.remote);
  good(probe_listen(lab.probes, lab.ours, PROBE_HEARTBEAT));
  return lab;
}

static void lab_close(struct lab *lab) {
  probes_free(lab->probes);
  close(lab->ours);
  close(lab->peer);
}

static uint8_t our_key[BEAT_KEY_OCTETS], peer_key[BEAT_KEY_OCTETS], old_key[BEAT_KEY_OCTETS];
static uint8_t peer_boot[BEAT_BOOT_OCTETS];

/* The peer is followed; it may seal with either of two keys. */
static struct beat_program program_of(const struct lab *lab, uint64_t interval_ms, uint64_t hold_ms) {
  struct beat_program program = {.socket = lab->ours,
                                 .remote = lab->remote,
                                 .length = BODY,
                                 .open_count = 2,
                                 .shortest_ns = interval_ms * MS,
                                 .longest_ns = interval_ms * MS,
                                 .hold_ns = hold_ms * MS,
                                 .at_once = true};
  memcpy(program.prefix, "GWHB\x02\x00", 6);
  program.prefix[6] = PATH;
  memset(program.prefix + 12, 0xaa, BEAT_BOOT_OCTETS);
  memcpy(program.seal, our_key, sizeof our_key);
  memcpy(program.open[0], peer_key, sizeof peer_key);
  memcpy(program.open[1], old_key, sizeof old_key);
  memcpy(program.peer, peer_boot, sizeof peer_boot);
  for (size_t i = 84; i < BODY; i++)
    program.body[i] = (uint8_t)i;
  return program;
}

static bool gcm(int seal, const uint8_t *key, const uint8_t *header, uint8_t *text, size_t length, uint8_t *tag) {
  uint8_t nonce[12];
  int written;
  memcpy(nonce, key + 32, 4);
  memcpy(nonce + 4, header + 28, 8);
  EVP_CIPHER_CTX *context = __real_EVP_CIPHER_CTX_new();
  CHECK(EVP_CipherInit_ex(context, EVP_aes_256_gcm(), NULL, key, nonce, seal) == 1);
  CHECK(EVP_CipherUpdate(context, NULL, &written, header, HEADER) == 1);
  CHECK(EVP_CipherUpdate(context, text, &written, text, (int)length) == 1);
  if (!seal) CHECK(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, TAG, tag) == 1);
  bool done = EVP_CipherFinal_ex(context, text + written, &written) == 1;
  if (seal) CHECK(EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG, tag) == 1);
  EVP_CIPHER_CTX_free(context);
  return done;
}

/* A datagram of the peer: `mark` is its clock and its challenge. */
static void peer_says(uint8_t out[MESSAGE], uint64_t sequence, uint8_t mark, const uint8_t *key) {
  memset(out, 0, MESSAGE);
  memcpy(out, "GWHB\x02\x01", 6);
  out[6] = PATH;
  memcpy(out + 12, peer_boot, sizeof peer_boot);
  store(out + 28, 8, sequence);
  store(out + HEADER, 8, mark);
  memset(out + HEADER + 20, mark, 16);
  CHECK(gcm(1, key, out, out + HEADER, BODY, out + HEADER + BODY));
}

static void send_to_us(const struct lab *lab, const uint8_t *data, size_t length) {
  struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(lab->local.port)};
  memcpy(&name.sin_addr, lab->local.address, sizeof name.sin_addr);
  CHECK(sendto(lab->peer, data, length, 0, (struct sockaddr *)&name, sizeof name) == (ssize_t)length);
}

static struct probe_news *news_of(const struct lab *lab) {
  struct pollfd ready = {.fd = probes_event_fd(lab->probes), .events = POLLIN};
  CHECK(poll(&ready, 1, WAIT) == 1);
  return probes_news(lab->probes);
}

/* Sent, and told: it was looked at by then. */
static void tell_us(const struct lab *lab, const uint8_t *data, size_t length) {
  send_to_us(lab, data, length);
  struct probe_news *news = news_of(lab);
  CHECK(!news->expired && !news->next && news->length == length && memcmp(news->octets, data, length) == 0);
  CHECK(news->at_ns <= clock_now() && clock_now() - news->at_ns < WAIT * (uint64_t)MS);
  free(news);
}

/* The next one that arrives at the peer, opened; its sequence. */
static uint64_t next_beat(const struct lab *lab, uint8_t body[BODY]) {
  uint8_t data[1024];
  struct pollfd ready = {.fd = lab->peer, .events = POLLIN};
  CHECK(poll(&ready, 1, WAIT) == 1);
  CHECK(recv(lab->peer, data, sizeof data, 0) == MESSAGE);
  CHECK(memcmp(data, "GWHB\x02", 5) == 0 && data[6] == PATH && data[12] == 0xaa);
  memcpy(body, data + HEADER, BODY);
  CHECK(gcm(0, our_key, data, body, BODY, data + HEADER + BODY));
  return load(data + 28, 8);
}

static void forget_what_came(const struct lab *lab) {
  uint8_t data[1024];
  while (recv(lab->peer, data, sizeof data, MSG_DONTWAIT) > 0)
    ;
}

static uint64_t echoed(const struct lab *lab, uint8_t body[BODY]) {
  forget_what_came(lab);
  next_beat(lab, body);
  return load(body + 52, 8);
}

static struct probe_statistics statistics_of(const struct lab *lab, uint64_t refused[PROBE_REFUSAL_COUNT]) {
  struct probe_statistics *rows, found;
  size_t count;
  good(probes_statistics(lab->probes, &rows, &count, refused));
  CHECK(count == 1 && rows[0].id == PATH);
  found = rows[0];
  free(rows);
  return found;
}

static void test_each_one_is_sealed_anew_and_has_the_next_number(void) {
  struct lab lab = lab_open();
  struct beat_program program = program_of(&lab, 5, 1000);
  uint8_t body[BODY];
  uint64_t clock = 0, refused[PROBE_REFUSAL_COUNT];
  good(probe_beat(lab.probes, PATH, &program));
  for (uint64_t sequence = 1; sequence <= 20; sequence++) {
    CHECK(next_beat(&lab, body) == sequence);
    CHECK(load(body, 8) > clock && load(body, 8) <= clock_now() / 1000);
    clock = load(body, 8);
    CHECK(memcmp(body + 8, program.body + 8, BODY - 8) == 0);            /* nobody was heard: no echo */
    if (sequence % 5 == 0) good(probe_beat(lab.probes, PATH, &program)); /* whatever is armed, the numbers go on */
  }
  CHECK(statistics_of(&lab, refused).sent >= 20);
  lab_close(&lab);
}

static void test_the_newest_of_the_peer_is_echoed_with_how_long_it_was_held(void) {
  struct lab lab = lab_open();
  struct beat_program program = program_of(&lab, 5, 5000);
  uint8_t body[BODY], said[MESSAGE];
  uint64_t refused[PROBE_REFUSAL_COUNT];
  good(probe_beat(lab.probes, PATH, &program));
  peer_says(said, 7, 0x11, peer_key);
  tell_us(&lab, said, MESSAGE);
  CHECK(echoed(&lab, body) == 7 && load(body + 60, 8) == 0x11 && body[68] == 0x11 && body[83] == 0x11);
  CHECK(memcmp(body + 36, peer_boot, sizeof peer_boot) == 0 && memcmp(body + 84, program.body + 84, BODY - 84) == 0);
  uint64_t held = load(body + 8, 4), clock = load(body, 8);
  next_beat(&lab, body);
  uint64_t longer = load(body + 8, 4) - held, later = load(body, 8) - clock;
  CHECK(later >= 4000 && longer + 2 > later && longer < later + 2);
  peer_says(said, 9, 0x22, old_key); /* while it changes its secret */
  tell_us(&lab, said, MESSAGE);
  CHECK(echoed(&lab, body) == 9 && body[68] == 0x22);
  CHECK(statistics_of(&lab, refused).received == 2);
  /* Armed again by a core that has not heard of it yet, and then by one that knows more than we do */
  memcpy(program.body + 36, peer_boot, sizeof peer_boot);
  store(program.body + 52, 8, 8);
  good(probe_beat(lab.probes, PATH, &program));
  CHECK(echoed(&lab, body) == 9 && body[68] == 0x22);
  store(program.body + 52, 8, 12);
  program.echoed_ns = clock_now() - 500 * (uint64_t)MS;
  good(probe_beat(lab.probes, PATH, &program));
  CHECK(echoed(&lab, body) == 12 && body[68] == 0 && load(body + 8, 4) >= 500000);
  /* Another process of the peer's: what the one before said is nothing */
  memset(program.peer, 0x77, sizeof program.peer);
  memset(program.body + 36, 0, 48);
  good(probe_beat(lab.probes, PATH, &program));
  CHECK(echoed(&lab, body) == 0 && load(body + 36, 8) == 0);
  lab_close(&lab);
}

static void test_what_is_not_authentic_and_new_is_told_and_moves_nothing(void) {
  struct lab lab = lab_open();
  struct beat_program program = program_of(&lab, 5, 60000);
  uint8_t body[BODY], said[MESSAGE], other_key[BEAT_KEY_OCTETS], longer[700];
  uint64_t refused[PROBE_REFUSAL_COUNT];
  good(probe_beat(lab.probes, PATH, &program));
  peer_says(said, 50, 0x11, peer_key);
  tell_us(&lab, said, MESSAGE);
  tell_us(&lab, said, MESSAGE); /* again */
  peer_says(said, 49, 0x33, peer_key);
  tell_us(&lab, said, MESSAGE); /* overtaken: the core's window says whether it is new */
  random_fill(other_key, sizeof other_key);
  peer_says(said, 60, 0x33, other_key);
  tell_us(&lab, said, MESSAGE);
  peer_says(said, 61, 0x33, peer_key);
  for (size_t at = 0; at < MESSAGE; at += at < 40 ? 1 : 13) { /* header, body and tag */
    said[at] ^= 0x04;
    tell_us(&lab, said, MESSAGE);
    said[at] ^= 0x04;
  }
  for (size_t length = 0; length < MESSAGE; length += length < 60 ? 3 : 17)
    tell_us(&lab, said, length);
  memset(longer, 0, sizeof longer);
  memcpy(longer, said, MESSAGE);
  tell_us(&lab, longer, sizeof longer);
  CHECK(echoed(&lab, body) == 50 && body[68] == 0x11);
  CHECK(statistics_of(&lab, refused).received == 1 && refused[PROBE_REFUSED_SUPPRESSED] == 0);
  tell_us(&lab, said, MESSAGE);
  CHECK(echoed(&lab, body) == 61 && body[68] == 0x33);
  lab_close(&lab);
}

/* A body too short to say what is echoed, sealed by the peer itself. */
static void test_a_short_one_is_no_heartbeat(void) {
  struct lab lab = lab_open();
  struct beat_program program = program_of(&lab, 5, 5000);
  uint8_t body[BODY], said[MESSAGE];
  good(probe_beat(lab.probes, PATH, &program));
  peer_says(said, 5, 0x11, peer_key);
  memset(said + HEADER, 0, BODY);
  CHECK(gcm(1, peer_key, said, said + HEADER, 83, said + HEADER + 83));
  tell_us(&lab, said, HEADER + 83 + TAG);
  CHECK(echoed(&lab, body) == 0);
  lab_close(&lab);
}

static void test_a_flood_leaves_room_for_the_peer(void) {
  struct lab lab = lab_open();
  struct beat_program program = program_of(&lab, 100, 5000);
  uint8_t said[MESSAGE], noise[64] = {1};
  uint64_t refused[PROBE_REFUSAL_COUNT];
  size_t genuine = 0, all = 0;
  good(probe_beat(lab.probes, PATH, &program));
  for (uint64_t sequence = 1; sequence <= 50; sequence++) { /* nobody looks at the news meanwhile */
    for (int i = 0; i < 100; i++)
      send_to_us(&lab, noise, sizeof noise);
    usleep(2000);
    peer_says(said, sequence, 0x11, peer_key);
    send_to_us(&lab, said, MESSAGE);
    usleep(1000);
  }
  usleep(100000);
  for (struct probe_news *news = probes_news(lab.probes), *next; news; news = next, all++) {
    next = news->next;
    genuine += news->length == MESSAGE;
    free(news);
  }
  CHECK(genuine == 50 && all < 5000);
  CHECK(statistics_of(&lab, refused).received == 50 && refused[PROBE_REFUSED_SUPPRESSED] > 0);
  lab_close(&lab);
}

static void test_nobody_speaks_for_a_core_that_is_gone(void) {
  struct lab lab = lab_open();
  struct beat_program program = program_of(&lab, 5, 100);
  uint8_t body[BODY], data[1024];
  uint64_t began = clock_now(), last = 0;
  good(probe_beat(lab.probes, PATH, &program));
  struct pollfd ready = {.fd = lab.peer, .events = POLLIN};
  while (poll(&ready, 1, 200) == 1)
    last = next_beat(&lab, body);
  CHECK(clock_now() - began >= 250 * (uint64_t)MS && last >= 5 && last <= 22);
  program.at_once = false; /* it is back */
  good(probe_beat(lab.probes, PATH, &program));
  CHECK(next_beat(&lab, body) == last + 1);
  good(probe_beat_once(lab.probes, PATH, program.body, program.length));
  good(probe_beat_rest(lab.probes, PATH));
  forget_what_came(&lab);
  usleep(50000);
  CHECK(recv(lab.peer, data, sizeof data, MSG_DONTWAIT) < 0);
  CHECK(probe_beat_once(lab.probes, PATH, program.body, program.length).sentence);
  good(probe_beat(lab.probes, PATH, &program));
  CHECK(next_beat(&lab, body) > last + 2); /* also after a rest no number comes twice */
  lab_close(&lab);
}

static void test_one_at_once_is_as_it_is_but_for_the_clock(void) {
  struct lab lab = lab_open();
  struct beat_program program = program_of(&lab, 60000, 5000);
  uint8_t body[BODY], other[BODY], said[MESSAGE];
  good(probe_beat(lab.probes, PATH, &program));
  CHECK(next_beat(&lab, body) == 1);
  peer_says(said, 50, 0x11, peer_key);
  tell_us(&lab, said, MESSAGE);
  random_fill(other, sizeof other);
  good(probe_beat_once(lab.probes, PATH, other, sizeof other));
  CHECK(next_beat(&lab, body) == 2 && memcmp(body + 8, other + 8, BODY - 8) == 0);
  CHECK(load(body, 8) <= clock_now() / 1000);
  lab_close(&lab);
}

static void test_refusals(void) {
  struct lab lab = lab_open();
  struct beat_program program = program_of(&lab, 5, 1000);
  struct probe_path path = {.id = 9, .key = 9, .kind = PROBE_HEARTBEAT, .socket = lab.ours, .remote = lab.remote};
  struct probe_program plain = {0};
  CHECK(probe_add(lab.probes, &path).sentence);
  CHECK(probe_beat(lab.probes, BEAT_PATHS, &program).sentence);
  program.length = BEAT_BODY_LEAST - 1;
  CHECK(probe_beat(lab.probes, PATH, &program).sentence);
  program = program_of(&lab, 0, 1000);
  CHECK(probe_beat(lab.probes, PATH, &program).sentence);
  program = program_of(&lab, 5, 1000);
  CHECK(probe_beat_once(lab.probes, PATH, program.body, BODY).sentence);
  good(probe_beat(lab.probes, PATH, &program));
  CHECK(probe_beat_once(lab.probes, PATH, program.body, BEAT_BODY_MAX + 1).sentence);
  CHECK(probe_arm(lab.probes, PATH, &plain).sentence);
  CHECK(probe_send(lab.probes, PATH, program.body, 24).sentence);
  good(probe_remove(lab.probes, PATH));
  good(probe_beat_once(lab.probes, PATH, program.body, BODY));
  path.kind = PROBE_BFD;
  good(probe_add(lab.probes, &path));
  CHECK(probe_beat(lab.probes, 9, &program).sentence);
  CHECK(probe_beat_once(lab.probes, 9, program.body, BODY).sentence);
  good(probe_beat_rest(lab.probes, 9));
  good(probe_beat_rest(lab.probes, 77));
  probes_stop(lab.probes);
  CHECK(probe_beat(lab.probes, PATH, &program).sentence);
  lab_close(&lab);
}

static void test_without_memory_it_is_not_armed_and_nothing_is_lost(void) {
  bool armed = false;
  for (int succeed = 1; !armed; succeed++) {
    struct lab lab = lab_open();
    struct beat_program program = program_of(&lab, 5, 1000);
    uint8_t body[BODY];
    fail_allocations = succeed;
    struct fault fault = probe_beat(lab.probes, PATH, &program);
    armed = !fault.sentence;
    CHECK(armed || (fail_allocations == 1 && strstr(fault.sentence, "memory")));
    fail_allocations = 0;
    good(probe_beat(lab.probes, PATH, &program));
    next_beat(&lab, body);
    CHECK(succeed < 100);
    lab_close(&lab);
  }
}

int main(void) {
  random_fill(our_key, sizeof our_key);
  random_fill(peer_key, sizeof peer_key);
  random_fill(old_key, sizeof old_key);
  random_fill(peer_boot, sizeof peer_boot);
  RUN(test_each_one_is_sealed_anew_and_has_the_next_number);
  RUN(test_the_newest_of_the_peer_is_echoed_with_how_long_it_was_held);
  RUN(test_what_is_not_authentic_and_new_is_told_and_moves_nothing);
  RUN(test_a_short_one_is_no_heartbeat);
  RUN(test_a_flood_leaves_room_for_the_peer);
  RUN(test_nobody_speaks_for_a_core_that_is_gone);
  RUN(test_one_at_once_is_as_it_is_but_for_the_clock);
  RUN(test_refusals);
  RUN(test_without_memory_it_is_not_armed_and_nothing_is_lost);
}
