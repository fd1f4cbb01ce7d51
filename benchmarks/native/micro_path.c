/* The whole path from memory: lookup, sequence, header, padding, cipher,
 * window, selectors; no segmentation, no kernel.
 *
 *   micro_path SEED path     bursts of 32 against libipsec-mb's own call, and
 * one packet alone micro_path SEED sas      packet by packet over 1, 16, 256
 * and 2,000 SAs, against the same with 1 micro_path SEED workers  two workers
 * on one SA against two processes of one worker each
 *
 * The best of several turns counts in the first two, the median in the third.
 * Packets are counted at the far end of the path: one that does not arrive
 * there ends the program.
 */
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "inbound.h"
#include "memory_plane.h"
#include "outbound.h"
#include "raw.h"

enum { BURST = 32, TURNS = 7, TURN_PACKETS = 2048, STRANDS = 2 };

struct measured_suite {
  struct suite_choice choice;
  enum raw_suite raw;
};

static const struct measured_suite suites[] = {
    {{"gcm-128", {ESP_AES_GCM_16, ESP_INTEG_NONE, false}, 20, 0}, RAW_GCM_128},
    {{"cbc-256-sha256", {ESP_AES_CBC, ESP_HMAC_SHA2_256_128, false}, 32, 32},
     RAW_CBC_256_SHA256},
};
static const size_t sizes[] = {64, 1400};

/* ---- one strand: a worker with its feed ---- */

/* The kernel's copy of each packet to where it was asked to, timed alone. */
static uint64_t copies(const struct memory_plane *memory, size_t packets,
                       unsigned burst) {
  static uint8_t places[BURST * 1536];
  size_t length = memory->packet_length;
  uint64_t start = nanoseconds();
  for (size_t done = 0; done < packets; done++) {
    uint8_t *place = places + done % burst * length;
    memcpy(place, memory->packet, length);
    __asm__ volatile("" : : "r"(place) : "memory");
  }
  return nanoseconds() - start;
}

/* Every burst from the next connection's TUN. Returns nanoseconds, those of the
 * kernel's copies among them. */
static uint64_t run_out(const struct memory_plane *memory, unsigned worker,
                        size_t packets, unsigned burst) {
  struct worker *self = &memory->plane->workers[worker];
  uint64_t before = feed->sent, start = nanoseconds();
  unsigned connection = 0;
  for (size_t done = 0; done < packets; done += burst) {
    feed->readable = burst;
    outbound_turn(self, memory_queue(memory, connection, worker));
    if (++connection == memory->connections)
      connection = 0;
  }
  uint64_t spent = nanoseconds() - start;
  if (feed->sent - before != packets)
    die("the outbound path lost packets");
  return spent;
}

/* Everything stored, `step` packets a message. Returns nanoseconds without
 * those of handing out. */
static uint64_t run_in(const struct memory_plane *memory, unsigned worker,
                       size_t packets) {
  struct worker *self = &memory->plane->workers[worker];
  struct source *source = memory_socket(memory, worker);
  uint64_t written = feed->written, outside = feed->outside_ns,
           start = nanoseconds();
  while (feed->next < feed->stored)
    inbound_turn(self, source);
  uint64_t spent = nanoseconds() - start - (feed->outside_ns - outside);
  if (feed->written - written != packets)
    die("the inbound path lost packets");
  return spent;
}

/* New ESP packets into the feed's store. */
static void refill(const struct memory_plane *memory, size_t packets,
                   unsigned burst) {
  feed->room = packets;
  feed->stored = feed->next = 0;
  run_out(memory, 0, packets, burst);
  feed->room = 0;
}

static void both_ways(const struct memory_plane *memory, unsigned burst,
                      double best[2]) {
  uint64_t out = run_out(memory, 0, TURN_PACKETS, burst),
           outside = copies(memory, TURN_PACKETS, burst);
  out = out > outside ? out - outside : 0;
  refill(memory, TURN_PACKETS, burst);
  feed->step = burst;
  uint64_t in = run_in(memory, 0, TURN_PACKETS);
  double spent[2] = {(double)out / TURN_PACKETS, (double)in / TURN_PACKETS};
  for (int i = 0; i < 2; i++)
    if (spent[i] < best[i])
      best[i] = spent[i];
}

/* ---- against libipsec-mb ---- */

static uint8_t arena[BURST * 1536] __attribute__((aligned(64)));

static void raw_turn(struct raw *raw, const struct memory_plane *memory,
                     unsigned burst, double best[2]) {
  size_t text = memory->sealed_length - memory->header_length - 16,
         stride = (memory->sealed_length + 63) / 64 * 64;
  uint8_t *first = arena + memory->header_length;
  uint64_t spent[2] = {0, 0};
  for (unsigned i = 0; i < TURN_PACKETS / burst; i++) {
    uint64_t start = nanoseconds();
    raw_seal(raw, first, stride, memory->header_length, text, burst);
    uint64_t middle = nanoseconds();
    raw_open(raw, first, stride, memory->header_length, text, burst);
    spent[0] += middle - start;
    spent[1] += nanoseconds() - middle;
  }
  for (int i = 0; i < 2; i++)
    if ((double)spent[i] / TURN_PACKETS < best[i])
      best[i] = (double)spent[i] / TURN_PACKETS;
}

static void compare(const struct measured_suite *suite, size_t size,
                    unsigned burst, uint64_t *random) {
  struct memory_plane *memory = memory_plane_new(&suite->choice, size, 1, 1);
  struct raw *raw = raw_new(suite->raw);
  if (!raw)
    die("not available: libipsec-mb cannot be used here");
  double ours[2] = {1e18, 1e18}, peer[2] = {1e18, 1e18};
  struct feed own;
  memory_feed(memory, &own, TURN_PACKETS);
  own.room = 0;
  feed = &own;
  for (int i = 0; i < TURNS; i++) {
    bool first = coin(random);
    if (first)
      raw_turn(raw, memory, burst, peer);
    both_ways(memory, burst, ours);
    if (!first)
      raw_turn(raw, memory, burst, peer);
  }
  feed = NULL;
  if (memory_drops(memory) > 0)
    die("the path dropped packets");
  char name[64];
  if (burst == 1) {
    snprintf(name, sizeof name, "lone-%s-%zu", suite->choice.name, size);
    say(name, ours[0] + ours[1], peer[0] + peer[1], "ns, seal and open");
  }
  for (int i = 0; i < 2 && burst > 1; i++) {
    snprintf(name, sizeof name, "path-%s-%s-%zu", i ? "in" : "out",
             suite->choice.name, size);
    say(name, ours[i], peer[i], "ns/packet");
  }
  memory_feed_free(&own);
  raw_free(raw);
  memory_plane_free(memory);
}

/* ---- many SAs ---- */

static void many_sas(uint64_t *random) {
  static const unsigned counts[] = {1, 16, 256, 2000};
  enum { KINDS = sizeof counts / sizeof counts[0] };
  struct memory_plane *memory[KINDS];
  struct feed feeds[KINDS];
  double best[KINDS][2];
  for (size_t k = 0; k < KINDS; k++) {
    memory[k] = memory_plane_new(&suites[0].choice, 1400, counts[k], 1);
    memory_feed(memory[k], &feeds[k], TURN_PACKETS);
    feeds[k].room = 0;
    best[k][0] = best[k][1] = 1e18;
  }
  for (int i = 0; i < TURNS; i++) {
    bool downwards = coin(random);
    for (size_t k = 0; k < KINDS; k++) {
      size_t chosen = downwards ? KINDS - 1 - k : k;
      feed = &feeds[chosen];
      both_ways(memory[chosen], 1, best[chosen]);
      feed = NULL;
    }
  }
  for (size_t k = 0; k < KINDS; k++) {
    char name[64];
    for (int i = 0; i < 2; i++) {
      snprintf(name, sizeof name, "sas-%u-%s", counts[k], i ? "in" : "out");
      say(name, best[k][i], best[0][i], "ns/packet");
    }
    if (memory_drops(memory[k]) > 0)
      die("the path dropped packets");
    memory_feed_free(&feeds[k]);
    memory_plane_free(memory[k]);
  }
}

/* ---- two workers ---- */

enum { STRAND_PACKETS = 16384, STRAND_TURNS = 12 };

/* Shared by threads or by processes. */
struct meeting {
  _Atomic unsigned arrived;
  double spent[STRANDS][STRAND_TURNS][2]; /* ns per packet: out, in */
};

struct strand {
  struct memory_plane *memory; /* NULL: the strand makes its own */
  struct meeting *meeting;
  unsigned index, worker;
  size_t size;
  uint8_t *store; /* of the shared plane: filled by strand 0 */
};

/* Everyone waits here for everyone, awake. */
static void meet(struct meeting *meeting, unsigned *round) {
  unsigned wanted = ++*round * STRANDS;
  atomic_fetch_add(&meeting->arrived, 1);
  for (unsigned spins = 0; atomic_load(&meeting->arrived) < wanted;)
    if (++spins > 10000)
      sched_yield();
}

static void strand_turn(const struct strand *strand,
                        const struct memory_plane *memory, unsigned *round,
                        double spent[2]) {
  bool shared = strand->memory != NULL, fills = !shared || strand->index == 0;
  size_t stored = shared ? 2 * STRAND_PACKETS : STRAND_PACKETS;
  meet(strand->meeting, round);
  spent[0] = (double)run_out(memory, strand->worker, STRAND_PACKETS, BURST) /
             STRAND_PACKETS;
  meet(strand->meeting, round);
  if (fills)
    refill(memory, stored, BURST);
  meet(strand->meeting, round);
  /* Two workers take turns with bursts of one SA, as flows of one tunnel over
   * two sockets do. */
  feed->stored = stored;
  feed->next = shared ? strand->index * BURST : 0;
  feed->step = BURST;
  feed->skip = shared ? BURST : 0;
  spent[1] =
      (double)run_in(memory, strand->worker, STRAND_PACKETS) / STRAND_PACKETS;
  meet(strand->meeting, round);
}

static void *strand_main(void *argument) {
  const struct strand *strand = argument;
  struct memory_plane *memory =
      strand->memory ? strand->memory
                     : memory_plane_new(&suites[0].choice, strand->size, 1, 1);
  struct feed own;
  unsigned round = 0;
  pin(strand->index);
  memory_feed(memory, &own, strand->memory ? 0 : STRAND_PACKETS);
  if (strand->memory)
    own.store = strand->store;
  own.room = 0;
  feed = &own;
  for (int i = 0; i < STRAND_TURNS; i++)
    strand_turn(strand, memory, &round,
                strand->meeting->spent[strand->index][i]);
  feed = NULL;
  if (!strand->memory) {
    if (memory_drops(memory) > 0)
      die("the path dropped packets");
    memory_feed_free(&own);
    memory_plane_free(memory);
  }
  return NULL;
}

static void run_threads(struct meeting *meeting, size_t size) {
  struct memory_plane *memory =
      memory_plane_new(&suites[0].choice, size, 1, STRANDS);
  uint8_t *store = malloc((size_t)2 * STRAND_PACKETS * memory->sealed_length);
  pthread_t threads[STRANDS];
  struct strand strands[STRANDS];
  if (!store)
    die("out of memory");
  for (unsigned i = 0; i < STRANDS; i++) {
    strands[i] = (struct strand){memory, meeting, i, i, size, store};
    if (pthread_create(&threads[i], NULL, strand_main, &strands[i]) != 0)
      die("no thread");
  }
  for (unsigned i = 0; i < STRANDS; i++)
    pthread_join(threads[i], NULL);
  if (memory_drops(memory) > 0)
    die("the path dropped packets");
  free(store);
  memory_plane_free(memory);
}

static void run_processes(struct meeting *meeting, size_t size) {
  pid_t children[STRANDS];
  for (unsigned i = 0; i < STRANDS; i++) {
    struct strand strand = {NULL, meeting, i, 0, size, NULL};
    children[i] = fork();
    if (children[i] < 0)
      die("no process");
    if (children[i] > 0)
      continue;
    strand_main(&strand);
    _exit(0);
  }
  for (unsigned i = 0; i < STRANDS; i++) {
    int status = 0;
    if (waitpid(children[i], &status, 0) < 0 || status != 0)
      die("a process failed");
  }
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Packets per second of both strands together: the median of the turns, for the
 * best one may be the one in which the other strand stood still. */
static double rate(const struct meeting *meeting, int way) {
  double rates[STRAND_TURNS];
  for (int i = 0; i < STRAND_TURNS; i++)
    rates[i] =
        1e3 / meeting->spent[0][i][way] + 1e3 / meeting->spent[1][i][way];
  qsort(rates, STRAND_TURNS, sizeof rates[0], by_value);
  return rates[STRAND_TURNS / 2];
}

static void two_workers(uint64_t *random) {
  if (sysconf(_SC_NPROCESSORS_ONLN) < STRANDS)
    die("not available: this needs two cores");
  for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
    struct meeting *meetings =
        mmap(NULL, 2 * sizeof *meetings, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (meetings == MAP_FAILED)
      die("out of memory");
    bool first = coin(random);
    if (first)
      run_processes(&meetings[1], sizes[s]);
    run_threads(&meetings[0], sizes[s]);
    if (!first)
      run_processes(&meetings[1], sizes[s]);
    for (int way = 0; way < 2; way++) {
      char name[64];
      snprintf(name, sizeof name, "workers-%s-%zu", way ? "in" : "out",
               sizes[s]);
      say(name, rate(&meetings[0], way), rate(&meetings[1], way), "Mpps");
    }
    munmap(meetings, 2 * sizeof *meetings);
  }
}

int main(int argc, char **argv) {
  if (argc != 3)
    die("usage: micro_path SEED path|sas|workers");
  uint64_t random = strtoull(argv[1], NULL, 10);
  if (!strcmp(argv[2], "workers")) {
    two_workers(&random);
    return 0;
  }
  pin(0);
  if (!strcmp(argv[2], "sas")) {
    many_sas(&random);
    return 0;
  }
  for (size_t s = 0; s < sizeof suites / sizeof suites[0]; s++)
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
      compare(&suites[s], sizes[i], BURST, &random);
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
    compare(&suites[0], sizes[i], 1, &random);
  return 0;
}
