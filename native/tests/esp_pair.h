/* What the ESP tests share: suites, keys, the engines of this machine, a sealing and an opening end. */
#ifndef GATEWAY_TESTS_ESP_PAIR_H
#define GATEWAY_TESTS_ESP_PAIR_H

#include "aead.h"
#include "check.h"
#include "esp.h"

enum { PACKET_ROOM = 66000, SPI = 0xc0ffee01, BURST = 130 };

struct named_suite {
  const char *name;
  struct esp_suite suite;
  size_t encryption_key_length, integrity_key_length;
};

static const struct named_suite suites[] = {
    {"gcm-128", {ESP_AES_GCM_16, ESP_INTEG_NONE, false}, 20, 0},
    {"gcm-192", {ESP_AES_GCM_16, ESP_INTEG_NONE, false}, 28, 0},
    {"gcm-256", {ESP_AES_GCM_16, ESP_INTEG_NONE, false}, 36, 0},
    {"gcm-256-esn", {ESP_AES_GCM_16, ESP_INTEG_NONE, true}, 36, 0},
    {"gcm8-128", {ESP_AES_GCM_8, ESP_INTEG_NONE, false}, 20, 0},
    {"gcm8-256-esn", {ESP_AES_GCM_8, ESP_INTEG_NONE, true}, 36, 0},
    {"gcm12-192", {ESP_AES_GCM_12, ESP_INTEG_NONE, false}, 28, 0},
    {"gcm12-256-esn", {ESP_AES_GCM_12, ESP_INTEG_NONE, true}, 36, 0},
    {"chacha20-poly1305", {ESP_CHACHA20_POLY1305, ESP_INTEG_NONE, false}, 36, 0},
    {"chacha20-poly1305-esn", {ESP_CHACHA20_POLY1305, ESP_INTEG_NONE, true}, 36, 0},
    {"cbc-128-sha1", {ESP_AES_CBC, ESP_HMAC_SHA1_96, false}, 16, 20},
    {"cbc-192-sha256", {ESP_AES_CBC, ESP_HMAC_SHA2_256_128, false}, 24, 32},
    {"cbc-256-sha256-esn", {ESP_AES_CBC, ESP_HMAC_SHA2_256_128, true}, 32, 32},
    {"cbc-256-sha384", {ESP_AES_CBC, ESP_HMAC_SHA2_384_192, false}, 32, 48},
    {"cbc-256-sha512", {ESP_AES_CBC, ESP_HMAC_SHA2_512_256, false}, 32, 64},
    {"cbc-128-sha1-esn", {ESP_AES_CBC, ESP_HMAC_SHA1_96, true}, 16, 20},
    {"cbc-256-sha384-esn", {ESP_AES_CBC, ESP_HMAC_SHA2_384_192, true}, 32, 48},
    {"cbc-256-sha512-esn", {ESP_AES_CBC, ESP_HMAC_SHA2_512_256, true}, 32, 64},
};
enum { SUITES = sizeof suites / sizeof suites[0], FIRST_CBC = 10, CBC_192_SHA256, CBC_256_SHA256_ESN };

static uint8_t encryption_key[36], integrity_key[64];
static uint8_t arena[BURST][2048];

static enum esp_engine engines[2];
static size_t engine_count;

static inline void setup(void) {
  random_fill(encryption_key, sizeof encryption_key);
  random_fill(integrity_key, sizeof integrity_key);
  engines[engine_count++] = ESP_ENGINE_LIBCRYPTO;
  if (esp_engine_resolve(ESP_ENGINE_AUTO) == ESP_ENGINE_IPSECMB) engines[engine_count++] = ESP_ENGINE_IPSECMB;
  for (size_t i = 0; i < engine_count; i++)
    printf("engine %s\n", esp_engine_name(engines[i]));
}

static inline struct esp_key *new_key(enum esp_engine engine, const struct named_suite *suite, bool seal) {
  const char *error = NULL;
  struct esp_key *key = esp_key_new(engine, &suite->suite, encryption_key, suite->encryption_key_length, integrity_key,
                                    suite->integrity_key_length, SPI, seal, &error);
  CHECK(key && !error);
  return key;
}

/* Both ends of one suite. */
struct pair {
  struct esp_thread *seal_thread, *open_thread;
  struct esp_key *seal, *open;
};

static inline struct pair new_pair(enum esp_engine sealer, enum esp_engine opener, const struct named_suite *suite) {
  struct pair pair = {esp_thread_new(sealer), esp_thread_new(opener), new_key(sealer, suite, true),
                      new_key(opener, suite, false)};
  CHECK(pair.seal_thread && pair.open_thread);
  return pair;
}

static inline void free_pair(struct pair *pair) {
  esp_key_free(pair->seal);
  esp_key_free(pair->open);
  esp_thread_free(pair->seal_thread);
  esp_thread_free(pair->open_thread);
}

/* Fills a burst with random payloads of the given lengths and remembers them. */
static uint8_t remembered[BURST][2048];

static inline void fill(const struct pair *pair, struct esp_seal_item *items, const size_t *lengths, size_t count,
                        uint64_t sequence) {
  for (size_t i = 0; i < count; i++) {
    items[i] = (struct esp_seal_item){
        .packet = arena[i], .payload_length = lengths[i], .sequence = sequence + i, .next_header = 4};
    random_fill(arena[i] + esp_header_length(pair->seal), lengths[i]);
    memcpy(remembered[i], arena[i] + esp_header_length(pair->seal), lengths[i]);
  }
  esp_seal(pair->seal_thread, pair->seal, items, count);
}

#endif
