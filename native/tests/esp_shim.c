/* A flat C interface over esp.h and replay.h for ctypes (tests/native/test_differential.py): no structs to mirror, no
 * TUN. */
#include <stdlib.h>

#include "esp.h"
#include "replay.h"

struct esp_key *shim_key_new(int engine, int encryption, int integrity, int esn, const uint8_t *encryption_key,
                             size_t encryption_key_length, const uint8_t *integrity_key, size_t integrity_key_length,
                             uint32_t spi, int seal);
void shim_key_free(struct esp_key *key);
struct esp_thread *shim_thread_new(int engine);
void shim_thread_free(struct esp_thread *thread);
const char *shim_engine_name(int engine);
int shim_engine_resolve(int engine);
size_t shim_sealed_length(const struct esp_key *key, size_t payload_length);
void shim_seal(struct esp_thread *thread, const struct esp_key *key, size_t count, const uint8_t *payloads,
               const size_t *payload_lengths, const uint8_t *next_headers, const uint64_t *sequences, uint8_t *packets,
               size_t stride, size_t *lengths);
void shim_open(struct esp_thread *thread, const struct esp_key *key, size_t count, uint8_t *packets, size_t stride,
               const size_t *lengths, const uint64_t *sequences, size_t *payload_offsets, size_t *payload_lengths,
               uint8_t *next_headers, int *results);
struct replay_window *shim_replay_new(uint32_t size, int esn);
void shim_replay_free(struct replay_window *window);
void shim_replay_resume(struct replay_window *window, uint64_t top);
uint64_t shim_replay_infer(const struct replay_window *window, uint32_t low);
int shim_replay_check(const struct replay_window *window, uint64_t sequence);
int shim_replay_accept(struct replay_window *window, uint64_t sequence);

enum { SHIM_BURST = 256 };

struct esp_key *shim_key_new(int engine, int encryption, int integrity, int esn, const uint8_t *encryption_key,
                             size_t encryption_key_length, const uint8_t *integrity_key, size_t integrity_key_length,
                             uint32_t spi, int seal) {
  struct esp_suite suite = {(enum esp_encryption)encryption, (enum esp_integrity)integrity, esn != 0};
  const char *error;
  return esp_key_new((enum esp_engine)engine, &suite, encryption_key, encryption_key_length, integrity_key,
                     integrity_key_length, spi, seal != 0, &error);
}

void shim_key_free(struct esp_key *key) {
  esp_key_free(key);
}

struct esp_thread *shim_thread_new(int engine) {
  return esp_thread_new((enum esp_engine)engine);
}

void shim_thread_free(struct esp_thread *thread) {
  esp_thread_free(thread);
}

const char *shim_engine_name(int engine) {
  return esp_engine_name((enum esp_engine)engine);
}

int shim_engine_resolve(int engine) {
  return (int)esp_engine_resolve((enum esp_engine)engine);
}

size_t shim_sealed_length(const struct esp_key *key, size_t payload_length) {
  return esp_sealed_length(key, payload_length);
}

/* Payloads stand one after another; packets `stride` octets apart. At most SHIM_BURST packets. */
void shim_seal(struct esp_thread *thread, const struct esp_key *key, size_t count, const uint8_t *payloads,
               const size_t *payload_lengths, const uint8_t *next_headers, const uint64_t *sequences, uint8_t *packets,
               size_t stride, size_t *lengths) {
  struct esp_seal_item items[SHIM_BURST];
  for (size_t i = 0; i < count; i++) {
    items[i] = (struct esp_seal_item){.packet = packets + i * stride,
                                      .payload_length = payload_lengths[i],
                                      .sequence = sequences[i],
                                      .next_header = next_headers[i]};
    __builtin_memcpy(items[i].packet + esp_header_length(key), payloads, payload_lengths[i]);
    payloads += payload_lengths[i];
  }
  esp_seal(thread, key, items, count);
  for (size_t i = 0; i < count; i++)
    lengths[i] = items[i].length;
}

void shim_open(struct esp_thread *thread, const struct esp_key *key, size_t count, uint8_t *packets, size_t stride,
               const size_t *lengths, const uint64_t *sequences, size_t *payload_offsets, size_t *payload_lengths,
               uint8_t *next_headers, int *results) {
  struct esp_open_item items[SHIM_BURST];
  for (size_t i = 0; i < count; i++)
    items[i] = (struct esp_open_item){.packet = packets + i * stride, .length = lengths[i], .sequence = sequences[i]};
  esp_open(thread, key, items, count);
  for (size_t i = 0; i < count; i++) {
    results[i] = (int)items[i].result;
    if (items[i].result != ESP_OK) continue;
    payload_offsets[i] = (size_t)(items[i].payload - items[i].packet);
    payload_lengths[i] = items[i].payload_length;
    next_headers[i] = items[i].next_header;
  }
}

struct replay_window *shim_replay_new(uint32_t size, int esn) {
  struct replay_window *window = calloc(1, sizeof *window);
  if (window && replay_init(window, size, esn != 0)) return window;
  free(window);
  return NULL;
}

void shim_replay_free(struct replay_window *window) {
  replay_free(window);
  free(window);
}

void shim_replay_resume(struct replay_window *window, uint64_t top) {
  replay_resume(window, top);
}

uint64_t shim_replay_infer(const struct replay_window *window, uint32_t low) {
  return replay_infer(window, low);
}

int shim_replay_check(const struct replay_window *window, uint64_t sequence) {
  return replay_check(window, sequence);
}

int shim_replay_accept(struct replay_window *window, uint64_t sequence) {
  return replay_accept(window, sequence);
}
