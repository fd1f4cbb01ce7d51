/* The SAD against models that go one packet and one SA at a time: limits, grants and sequence numbers taken by bursts;
 * the per-worker lists of policies while SAs of several connections come and go (RFC 9611 2).
 */
#include "plane.h"

enum { LIMIT_ROUNDS = 300, BURST = 128, EVENTS = 64 };
enum { WORKERS = 3, SPIS = 40, CONNECTIONS = 3, STEPS = 4000, PORTS = 4 };

static const struct endpoint nobody = {.address = {127, 0, 0, 1}, .port = 9, .family = AF_INET};

/* ---- limits ---- */

struct model {
  struct limits limits;
  uint64_t packets, octets, sequence, granted;
  bool soft, hard;
};

static bool at(uint64_t value, uint64_t limit) {
  return limit != 0 && value >= limit;
}

/* One packet, the slow way; false when it may not leave. */
static bool model_take(struct model *m, uint64_t octets, enum drop_reason *reason) {
  if (m->sequence >= m->granted) {
    *reason = DROP_SEQUENCE_EXHAUSTED;
    return false;
  }
  *reason = DROP_HARD_LIMIT;
  if (m->hard) return false;
  if (m->limits.hard_octets && m->octets + octets > m->limits.hard_octets) {
    m->hard = true;
    return false;
  }
  m->packets++;
  m->octets += octets;
  m->sequence++;
  m->hard = at(m->packets, m->limits.hard_packets) || at(m->octets, m->limits.hard_octets);
  m->soft = m->soft || at(m->packets, m->limits.soft_packets) || at(m->octets, m->limits.soft_octets);
  return true;
}

static uint64_t some_limit(uint64_t below) {
  return random_below(3) ? 1 + random_below(below) : 0;
}

/* Often just so many that a limit is reached with the last one. */
static size_t burst_size(const struct model *m) {
  uint64_t limits[] = {m->limits.soft_packets, m->limits.hard_packets, m->granted};
  uint64_t left = limits[random_below(3)] - m->packets;
  return left >= 1 && left <= BURST && random_below(2) ? (size_t)left : 1 + random_below(BURST);
}

static void burst_agrees(struct site *site, struct sa *sa, struct model *model) {
  struct esp_seal_item items[BURST] = {0};
  size_t count = burst_size(model), expected = 0;
  uint64_t octets = 0, first = model->sequence;
  enum drop_reason reason = DROP_REASON_COUNT, why = DROP_REASON_COUNT;
  for (size_t i = 0; i < count; i++)
    octets += items[i].payload_length = 20 + random_below(1400);
  while (expected < count && model_take(model, items[expected].payload_length, &why))
    expected++;
  CHECK(sa_take(site->plane, sa, items, count, octets, &reason) == expected);
  for (size_t i = 0; i < expected; i++)
    CHECK(items[i].sequence == first + 1 + i);
  CHECK(expected == count || reason == why);
  CHECK(sa->packets == model->packets && sa->octets == model->octets && sa->sequence == model->sequence);
  CHECK(sa->soft_raised == model->soft && sa->hard_reached == model->hard);
}

static void limits_are_exact_by_bursts(void) {
  struct site site;
  site_open(&site, 1, AF_INET, ESP_ENGINE_LIBCRYPTO);
  for (uint32_t spi = 0x1000; spi < 0x1000 + LIMIT_ROUNDS; spi++) {
    struct sa_request request = sa_like(&site, false, spi, spi % 2 ? &plane_gcm : &plane_gcm_esn, &nobody);
    struct event events[EVENTS];
    struct model model = {.granted = UINT32_MAX};
    request.limits = model.limits =
        (struct limits){some_limit(600000), some_limit(900000), some_limit(900), some_limit(1200)};
    check_fault(sa_add(site.plane, &request));
    struct sa *sa = sa_find(site.plane, false, CONNECTION, spi);
    size_t soft = 0, hard = 0;
    for (int burst = 0; burst < 30; burst++) {
      if (random_below(6) == 0) {
        model.granted = random_below(2000); /* also below what was used */
        check_fault(sa_grant(site.plane, CONNECTION, spi, model.granted));
      }
      burst_agrees(&site, sa, &model);
    }
    for (size_t i = 0, count = site_events(&site, events, EVENTS); i < count; i++) {
      soft += events[i].kind == EVENT_EXPIRE_SOFT;
      hard += events[i].kind == EVENT_EXPIRE_HARD;
    }
    CHECK(soft == model.soft && hard == model.hard);
    check_fault(sa_remove(site.plane, false, CONNECTION, spi));
  }
  site_close(&site);
}

/* ---- the end of the numbers, and events that find no room ---- */

enum { SPI_NEAR = 0x900, END_32 = UINT32_MAX };
static const uint64_t soft_32 = END_32 / 10 * 8;

static struct sa *sa_used(struct site *site, const struct esp_suite *suite, uint64_t sequence) {
  struct sa_request request = sa_like(site, false, SPI_NEAR, suite, &nobody);
  request.sequence = sequence;
  check_fault(sa_add(site->plane, &request));
  return sa_find(site->plane, false, CONNECTION, SPI_NEAR);
}

static size_t take(struct site *site, struct sa *sa, size_t count) {
  struct esp_seal_item items[BURST] = {0};
  enum drop_reason reason = DROP_REASON_COUNT;
  for (size_t i = 0; i < count; i++)
    items[i].payload_length = 20;
  size_t taken = sa_take(site->plane, sa, items, count, 20 * count, &reason);
  CHECK(taken == count || reason == DROP_SEQUENCE_EXHAUSTED || reason == DROP_HARD_LIMIT);
  return taken;
}

/* Exactly these, and of this SA. */
static void expect_events(struct site *site, size_t soft, size_t hard) {
  struct event events[EVENTS];
  size_t count = site_events(site, events, EVENTS);
  for (size_t i = 0; i < count; i++) {
    CHECK(events[i].spi == SPI_NEAR && events[i].length == 3 && memcmp(events[i].detail, "out", 3) == 0);
    soft -= events[i].kind == EVENT_EXPIRE_SOFT;
    hard -= events[i].kind == EVENT_EXPIRE_HARD;
  }
  CHECK(soft == 0 && hard == 0);
}

/* A process that goes on with an SA, or advances it, has seen few of its packets. */
static void numbers_that_run_out_are_told(bool advanced) {
  struct site site;
  site_open(&site, 1, AF_INET, ESP_ENGINE_LIBCRYPTO);
  struct sa *sa = sa_used(&site, &plane_gcm, advanced ? 7 : soft_32 - BURST - 1);
  if (advanced) check_fault(sa_advance(site.plane, CONNECTION, SPI_NEAR, soft_32 - BURST - 1 - 7));
  CHECK(take(&site, sa, BURST) == BURST);
  expect_events(&site, 0, 0);
  CHECK(take(&site, sa, 2) == 2 && sa->sequence == soft_32 + 1);
  CHECK(take(&site, sa, BURST) == BURST);
  expect_events(&site, 1, 0);
  site_close(&site);
}

static void numbers_of_a_resumed_sa_run_out(void) {
  numbers_that_run_out_are_told(false);
}

static void numbers_of_an_advanced_sa_run_out(void) {
  numbers_that_run_out_are_told(true);
}

static void the_end_of_the_numbers_is_told_once(void) {
  struct site site;
  site_open(&site, 1, AF_INET, ESP_ENGINE_LIBCRYPTO);
  struct sa *sa = sa_used(&site, &plane_gcm, END_32 - 10);
  CHECK(take(&site, sa, 10) == 10 && sa->sequence == END_32);
  expect_events(&site, 1, 0);
  CHECK(take(&site, sa, BURST) == 0 && take(&site, sa, 1) == 0);
  expect_events(&site, 0, 1);
  site_close(&site);
}

/* More may be granted: nothing has ended. And with ESN there is far to go. */
static void neither_a_grant_nor_32_bits_of_an_esn_are_the_end(void) {
  struct site site;
  site_open(&site, 1, AF_INET, ESP_ENGINE_LIBCRYPTO);
  struct sa *sa = sa_used(&site, &plane_gcm_esn, END_32 - 10);
  CHECK(take(&site, sa, 20) == 20);
  check_fault(sa_grant(site.plane, CONNECTION, SPI_NEAR, UINT64_C(1) + END_32));
  CHECK(take(&site, sa, 1) == 0);
  expect_events(&site, 0, 0);
  site_close(&site);
}

/* Up to `most`; how many fitted. */
static size_t fill_ring(struct site *site, enum event_kind kind, size_t most) {
  size_t fitted = 0;
  while (fitted < most && event_raise(site->plane, kind, 1, 2, "", 0))
    fitted++;
  return fitted;
}

static void empty_ring(struct site *site) {
  struct event events[EVENTS];
  while (site_events(site, events, EVENTS) > 0)
    ;
}

static void what_strangers_cause_leaves_half_the_ring(void) {
  static const enum event_kind strange[] = {EVENT_ACQUIRE, EVENT_UNKNOWN_SPI, EVENT_INTEGRITY_BURST};
  struct site site;
  site_open(&site, 1, AF_INET, ESP_ENGINE_LIBCRYPTO);
  for (size_t i = 0; i < sizeof strange / sizeof *strange; i++) {
    CHECK(fill_ring(&site, strange[i], 2 * EVENTS_MAX) == EVENTS_OF_STRANGERS_MAX);
    CHECK(fill_ring(&site, EVENT_EXPIRE_SOFT, 2 * EVENTS_MAX) == EVENTS_MAX - EVENTS_OF_STRANGERS_MAX);
    CHECK(!event_raise(site.plane, strange[i], 1, 2, "", 0));
    empty_ring(&site);
  }
  site_close(&site);
}

/* Of limits and of the end of the numbers, both of which are raised once. */
static void expiry_without_room_is_told_by_a_later_packet(bool numbers) {
  struct site site;
  site_open(&site, 1, AF_INET, ESP_ENGINE_LIBCRYPTO);
  struct sa_request request = sa_like(&site, false, SPI_NEAR, &plane_gcm, &nobody);
  if (numbers)
    request.sequence = END_32 - 10;
  else
    request.limits = (struct limits){.soft_packets = 2, .hard_packets = 10};
  check_fault(sa_add(site.plane, &request));
  struct sa *sa = sa_find(site.plane, false, CONNECTION, SPI_NEAR);
  fill_ring(&site, EVENT_PEER_MOVED, EVENTS_MAX);
  CHECK(take(&site, sa, 4) == 4);
  empty_ring(&site);
  CHECK(take(&site, sa, 4) == 4);
  expect_events(&site, 1, 0);
  fill_ring(&site, EVENT_PEER_MOVED, EVENTS_MAX);
  CHECK(take(&site, sa, 4) == 2 && take(&site, sa, 4) == 0);
  empty_ring(&site);
  CHECK(take(&site, sa, 4) == 0 && take(&site, sa, 4) == 0);
  expect_events(&site, 0, 1);
  site_close(&site);
}

static void limits_without_room_are_told_later(void) {
  expiry_without_room_is_told_by_a_later_packet(false);
}

static void the_end_without_room_is_told_later(void) {
  expiry_without_room_is_told_by_a_later_packet(true);
}

/* ---- policies ---- */

struct entry {
  bool there;
  int worker;
  uint16_t port; /* carries this one only */
};

struct link {
  uint32_t id;
  int tun[2];
  struct entry sas[SPIS];
  size_t count; /* of the list, which holds numbers of `sas` */
  size_t list[SPIS];
};

static void link_open(struct dataplane *plane, struct link *link, uint32_t id) {
  *link = (struct link){.id = id};
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, link->tun) == 0);
  check_fault(connection_add(plane, id, link->tun, 1, 1400));
}

static void link_close(struct dataplane *plane, struct link *link) {
  check_fault(connection_remove(plane, link->id));
  close(link->tun[0]);
  close(link->tun[1]);
}

static void entry_add(struct site *site, struct link *link, size_t n) {
  struct entry *entry = &link->sas[n];
  struct selector selector = any_selectors[0];
  *entry = (struct entry){true, (int)random_below(WORKERS + 1) - 1, (uint16_t)random_below(PORTS)};
  selector.remote_port_first = selector.remote_port_last = entry->port;
  struct sa_request request = sa_like(site, false, 0x1000 + (uint32_t)n, &plane_gcm, &nobody);
  request.connection = link->id;
  request.worker = entry->worker;
  request.selectors = &selector;
  request.selector_count = 1;
  check_fault(sa_add(site->plane, &request));
}

static void entry_remove(struct site *site, struct link *link, size_t n) {
  size_t kept = 0;
  check_fault(sa_remove(site->plane, false, link->id, 0x1000 + (uint32_t)n));
  link->sas[n].there = false;
  for (size_t i = 0; i < link->count; i++)
    if (link->list[i] != n) link->list[kept++] = link->list[i];
  link->count = kept;
}

/* In random order, and not all. */
static void list_replace(struct site *site, struct link *link) {
  uint32_t spis[SPIS];
  link->count = 0;
  for (size_t n = 0; n < SPIS; n++) {
    if (!link->sas[n].there || random_below(4) == 0) continue;
    size_t to = random_below(link->count + 1);
    memmove(&link->list[to + 1], &link->list[to], (link->count - to) * sizeof link->list[0]);
    link->list[to] = n;
    link->count++;
  }
  for (size_t i = 0; i < link->count; i++)
    spis[i] = 0x1000 + (uint32_t)link->list[i];
  check_fault(policies_replace(site->plane, link->id, spis, link->count));
}

/* A worker's own SAs, those for all, those of others; in each of the three the first of the list. */
static uint32_t expected_spi(const struct link *link, int worker, uint16_t port) {
  for (int turn = 0; turn < 3; turn++) {
    for (size_t i = 0; i < link->count; i++) {
      const struct entry *entry = &link->sas[link->list[i]];
      int rank = entry->worker == worker ? 0 : entry->worker == ANY_WORKER ? 1 : 2;
      if (rank == turn && entry->port == port) return 0x1000 + (uint32_t)link->list[i];
    }
  }
  return 0;
}

static void lists_agree(struct site *site, const struct link *link) {
  const struct connection *connection = connection_find(site->plane, link->id);
  const struct policy *policy = atomic_load(&connection->policy);
  for (int worker = 0; worker < WORKERS; worker++) {
    for (uint16_t port = 0; port < PORTS; port++) {
      struct inner inner = {.protocol = P_UDP, .ports_known = true, .destination_port = port};
      const struct sa *sa = policy_match(policy, (unsigned)worker, &inner);
      CHECK((sa ? sa->spi : 0) == expected_spi(link, worker, port));
    }
  }
}

/* Those of one connection stand together, and all are found. */
static void sad_agrees(struct site *site, const struct link *links) {
  size_t expected = 0, found = 0, changes = 0;
  const struct connection *last = NULL;
  for (size_t l = 0; l < CONNECTIONS; l++) {
    size_t of_link = 0;
    for (size_t n = 0; n < SPIS; n++) {
      const struct sa *sa = sa_find(site->plane, false, links[l].id, 0x1000 + (uint32_t)n);
      CHECK(links[l].sas[n].there ? sa && sa->connection->id == links[l].id : !sa);
      of_link += links[l].sas[n].there;
    }
    expected += of_link;
    changes += of_link > 0;
  }
  for (const struct sa *sa = site->plane->sas, *previous = NULL; sa; previous = sa, sa = sa->next, found++) {
    CHECK(sa->previous == previous);
    if (sa->connection != last) CHECK(changes-- > 0 && sa->connection->sas == sa);
    last = sa->connection;
  }
  CHECK(found == expected && changes == 0 && site->plane->outbound_sas.count == expected);
}

static void lists_follow_sas_that_come_and_go(void) {
  struct site site = {0};
  struct link links[CONNECTIONS];
  check_fault(dataplane_start(WORKERS, ESP_ENGINE_LIBCRYPTO, &site.plane));
  site.udp[0] = loopback_socket(AF_INET);
  site.local = endpoint_of(site.udp[0]);
  for (uint32_t l = 0; l < CONNECTIONS; l++)
    link_open(site.plane, &links[l], 10 + l);
  for (int step = 0; step < STEPS; step++) {
    size_t l = random_below(CONNECTIONS), n = random_below(SPIS);
    if (random_below(100) == 0) {
      link_close(site.plane, &links[l]);
      link_open(site.plane, &links[l], 10 + (uint32_t)l);
    } else if (random_below(6) == 0) {
      list_replace(&site, &links[l]);
    } else if (links[l].sas[n].there) {
      entry_remove(&site, &links[l], n);
    } else {
      entry_add(&site, &links[l], n);
    }
    lists_agree(&site, &links[l]);
    sad_agrees(&site, links);
  }
  for (size_t l = 0; l < CONNECTIONS; l++)
    link_close(site.plane, &links[l]);
  CHECK(!site.plane->sas && site.plane->outbound_sas.count == 0);
  dataplane_stop(site.plane);
  dataplane_free(site.plane);
  close(site.udp[0]);
}

int main(void) {
  RUN(limits_are_exact_by_bursts);
  RUN(numbers_of_a_resumed_sa_run_out);
  RUN(numbers_of_an_advanced_sa_run_out);
  RUN(the_end_of_the_numbers_is_told_once);
  RUN(neither_a_grant_nor_32_bits_of_an_esn_are_the_end);
  RUN(what_strangers_cause_leaves_half_the_ring);
  RUN(limits_without_room_are_told_later);
  RUN(the_end_without_room_is_told_later);
  RUN(lists_follow_sas_that_come_and_go);
  return 0;
}
