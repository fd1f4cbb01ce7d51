/* What two workers share: one SA's replay window, counters, sequence numbers and limits, when both come at once. */
#include "plane.h"

enum { SPI = 0x5005, PACKETS = 2000, ESP_MAX = 256, BURST = 48, LIMIT = 100003 };

static struct site site;
static struct peer peer;

static struct sa_statistics only_row(void) {
  struct sa_statistics *rows, row;
  size_t count;
  check_fault(sa_statistics(site.plane, &rows, &count));
  CHECK(count == 1);
  row = rows[0];
  free(rows);
  return row;
}

/* Reads what was delivered, wherever; merged packets are none here, for their UDP checksum is zero. */
static size_t take_delivered(uint8_t *seen) {
  uint8_t packet[ESP_MAX];
  size_t taken = 0;
  for (int worker = 0; worker < SITE_WORKERS; worker++) {
    ssize_t got;
    while ((got = recv(site.host[worker], packet, sizeof packet, MSG_DONTWAIT)) > 0) {
      CHECK((size_t)got > VNET_OCTETS + 32);
      uint32_t number = get32(packet + VNET_OCTETS + 28);
      CHECK(number < PACKETS && !seen[number]);
      seen[number] = 1;
      taken++;
    }
  }
  return taken;
}

static void wait_for(uint64_t done) {
  struct sa_statistics row = only_row();
  for (int i = 0; i < WAIT_MS && row.packets + row.replay_drops < done; i++, row = only_row())
    usleep(1000);
  CHECK(row.packets + row.replay_drops == done);
}

/* Every ESP packet arrives at both workers at about the same time. */
static void what_two_workers_open_at_once_is_delivered_once(const struct esp_suite *suite) {
  static uint8_t seen[PACKETS];
  struct endpoint to[SITE_WORKERS];
  size_t delivered = 0;
  memset(seen, 0, sizeof seen);
  site_open(&site, SITE_WORKERS, AF_INET, ESP_ENGINE_AUTO);
  peer_open(&peer, AF_INET, suite, SPI);
  site_in(&site, SPI, suite, &peer.local);
  for (int worker = 0; worker < SITE_WORKERS; worker++)
    to[worker] = endpoint_of(site.udp[worker]);
  for (uint32_t number = 0; number < PACKETS; number++) {
    struct recipe recipe = {.protocol = P_UDP, .payload = 40};
    uint8_t inner[ESP_MAX], esp[ESP_MAX];
    size_t length = build(inner, &recipe);
    put16(inner + 26, 0);
    put32(inner + 28, number);
    length = peer_seal(&peer, number + 1, inner, length, 4, esp);
    datagram_send(peer.socket, &to[number % 2], esp, length, 0, 0);
    datagram_send(peer.socket, &to[1 - number % 2], esp, length, 0, 0);
    /* A socket pair holds few. */
    if (number % 4 == 3) {
      wait_for(2 * (number + 1));
      delivered += take_delivered(seen);
    }
  }
  for (int i = 0; i < WAIT_MS && delivered < PACKETS; i++, usleep(1000))
    delivered += take_delivered(seen);
  struct sa_statistics row = only_row();
  CHECK(delivered == PACKETS && row.packets == PACKETS && row.replay_drops == PACKETS && row.sequence == PACKETS);
  expect_drops(&site, CONNECTION, DROP_REPLAY, PACKETS);
  CHECK(row.integrity_failures == 0 && site_drops(&site, CONNECTION, DROP_TUN_WRITE_FAILED) == 0);
  site_close(&site);
  peer_close(&peer);
}

static void gcm_is_delivered_once(void) {
  what_two_workers_open_at_once_is_delivered_once(&plane_gcm_esn);
}

static void cbc_is_delivered_once(void) {
  what_two_workers_open_at_once_is_delivered_once(&plane_cbc);
}

/* ---- sequence numbers ---- */

static _Atomic uint8_t given[LIMIT + 1];
static _Atomic uint64_t refused;

static void *take_until_refused(void *argument) {
  struct sa *sa = argument;
  struct esp_seal_item items[BURST] = {0};
  enum drop_reason reason = DROP_REASON_COUNT;
  for (size_t count = 1, taken = count; taken == count;) {
    count = count % BURST + 1;
    for (size_t i = 0; i < count; i++)
      items[i].payload_length = 100;
    taken = sa_take(site.plane, sa, items, count, count * 100, &reason);
    for (size_t i = 0; i < taken; i++) {
      CHECK(items[i].sequence >= 1 && items[i].sequence <= LIMIT);
      atomic_fetch_add(&given[items[i].sequence], 1);
    }
    if (taken < count) atomic_fetch_add(&refused, 1);
  }
  CHECK(reason == DROP_HARD_LIMIT);
  return NULL;
}

static void two_workers_share_out_every_number_up_to_the_limit_once(void) {
  pthread_t threads[2];
  struct event events[8];
  site_open(&site, 1, AF_INET, ESP_ENGINE_LIBCRYPTO);
  struct sa_request request = sa_like(&site, false, SPI, &plane_gcm, &site.local);
  request.limits = (struct limits){.soft_packets = LIMIT / 2, .hard_packets = LIMIT};
  check_fault(sa_add(site.plane, &request));
  struct sa *sa = sa_find(site.plane, false, CONNECTION, SPI);
  for (int i = 0; i < 2; i++)
    CHECK(pthread_create(&threads[i], NULL, take_until_refused, sa) == 0);
  for (int i = 0; i < 2; i++)
    pthread_join(threads[i], NULL);
  for (size_t i = 1; i <= LIMIT; i++)
    CHECK(atomic_load(&given[i]) == 1);
  CHECK(atomic_load(&refused) == 2 && sa->packets == LIMIT && sa->octets == LIMIT * UINT64_C(100));
  CHECK(site_events(&site, events, 8) == 2);
  CHECK(events[0].kind == EVENT_EXPIRE_SOFT && events[1].kind == EVENT_EXPIRE_HARD);
  site_close(&site);
}

int main(void) {
  RUN(gcm_is_delivered_once);
  RUN(cbc_is_delivered_once);
  RUN(two_workers_share_out_every_number_up_to_the_limit_once);
  return 0;
}
