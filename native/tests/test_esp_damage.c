/* Opening what a peer or an attacker made: flipped bits, cuts, wrong high sequence bits, bad trailers behind a good
 * ICV. */
#include "esp_pair.h"

static void any_flipped_bit_fails_alone_in_its_burst(void) {
  enum { COUNT = 16, LENGTH = 37 };
  size_t lengths[COUNT];
  for (size_t i = 0; i < COUNT; i++)
    lengths[i] = LENGTH;
  for (size_t s = 0; s < SUITES; s++)
    for (size_t e = 0; e < engine_count; e++) {
      struct pair pair = new_pair(engines[e], engines[e], &suites[s]);
      size_t octets = esp_sealed_length(pair.seal, LENGTH);
      for (size_t bit = 0; bit < octets * 8; bit += 5) {
        struct esp_seal_item sealed[COUNT];
        struct esp_open_item opened[COUNT];
        size_t victim = bit % COUNT;
        fill(&pair, sealed, lengths, COUNT, 50);
        arena[victim][bit / 8] ^= (uint8_t)(1 << bit % 8);
        for (size_t i = 0; i < COUNT; i++)
          opened[i] = (struct esp_open_item){.packet = arena[i], .length = sealed[i].length, .sequence = 50 + i};
        size_t count = bit % 2 ? COUNT : 1; /* a lone packet takes another path */
        size_t first = count == 1 ? victim : 0;
        esp_open(pair.open_thread, pair.open, opened + first, count);
        for (size_t i = first; i < first + count; i++)
          CHECK(opened[i].result == (i == victim ? ESP_BAD_ICV : ESP_OK));
      }
      free_pair(&pair);
    }
}

static void wrong_high_sequence_fails_with_esn_only(void) {
  for (size_t s = 0; s < SUITES; s++)
    for (size_t e = 0; e < engine_count; e++)
      for (size_t count = 1; count <= 9; count += 8) {
        struct pair pair = new_pair(engines[e], engines[e], &suites[s]);
        struct esp_seal_item sealed[9];
        struct esp_open_item opened[9];
        size_t lengths[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
        fill(&pair, sealed, lengths, count, 100);
        for (size_t i = 0; i < count; i++)
          opened[i] = (struct esp_open_item){
              .packet = arena[i], .length = sealed[i].length, .sequence = 100 + i + (UINT64_C(1) << 32)};
        esp_open(pair.open_thread, pair.open, opened, count);
        for (size_t i = 0; i < count; i++)
          CHECK(opened[i].result == (suites[s].suite.esn ? ESP_BAD_ICV : ESP_OK));
        free_pair(&pair);
      }
}

static void truncated_and_random_packets_fail_in_bounds(void) {
  for (size_t s = 0; s < SUITES; s++)
    for (size_t e = 0; e < engine_count; e++) {
      struct pair pair = new_pair(engines[e], engines[e], &suites[s]);
      struct esp_seal_item item = {.packet = arena[0], .payload_length = 60, .sequence = 9, .next_header = 4};
      esp_seal(pair.seal_thread, pair.seal, &item, 1);
      for (size_t length = 0; length < item.length; length++) {
        struct esp_open_item items[8];
        uint8_t *copies[8];
        for (size_t i = 0; i < 8; i++) {
          copies[i] = exact_copy(arena[0], length);
          if (i % 2) random_fill(copies[i], length);
          items[i] = (struct esp_open_item){.packet = copies[i], .length = length, .sequence = 9};
        }
        esp_open(pair.open_thread, pair.open, items, length % 2 ? 8 : 1);
        bool whole =
            length >= esp_minimum_length(pair.open) &&
            (length - esp_minimum_length(pair.open)) % (suites[s].suite.encryption == ESP_AES_CBC ? 16 : 4) == 0;
        for (size_t i = 0; i < (length % 2 ? 8u : 1u); i++)
          CHECK(items[i].result == (whole ? ESP_BAD_ICV : ESP_TOO_SHORT));
        for (size_t i = 0; i < 8; i++)
          free(copies[i]);
      }
      free_pair(&pair);
    }
}

/* Seals a text of the test's own making below the framing, so that the ICV is good and the trailer is not. */
static enum esp_result open_with_trailer(const struct named_suite *suite, const uint8_t *text, size_t length,
                                         struct esp_open_item *opened) {
  bool cbc = suite->suite.encryption == ESP_AES_CBC;
  struct aead_keying keying = {.suite = suite->suite, .seal = true};
  uint8_t cbc_icvs[] = {0, 12, 16, 24, 32}, combined_icvs[] = {16, 12, 8, 16};
  uint8_t icv_length = cbc ? cbc_icvs[suite->suite.integrity] : combined_icvs[suite->suite.encryption];
  keying.shape = (struct esp_shape){cbc ? 16 : 8, icv_length, cbc ? 16 : 4, cbc ? 24 : 16};
  keying.cipher_key_length = suite->encryption_key_length - (cbc ? 0 : 4);
  memcpy(keying.cipher_key, encryption_key, keying.cipher_key_length);
  if (!cbc) memcpy(keying.salt, encryption_key + keying.cipher_key_length, 4);
  memcpy(keying.integrity_key, integrity_key, keying.integrity_key_length = suite->integrity_key_length);
  void *thread = aead_openssl.thread_new(9), *key = aead_openssl.key_new(&keying);
  struct aead_packet packet = {.esp = arena[0], .text_length = length, .sequence = 3};
  aead_store32(arena[0], SPI);
  aead_store32(arena[0] + 4, 3);
  memset(arena[0] + 8, 1, keying.shape.iv_length);
  memcpy(arena[0] + keying.shape.header_length, text, length);
  aead_openssl.seal(thread, key, &packet, 1);
  aead_openssl.key_free(key);
  aead_openssl.thread_free(thread);
  struct pair pair = new_pair(engines[engine_count - 1], engines[engine_count - 1], suite);
  *opened = (struct esp_open_item){
      .packet = arena[0], .length = keying.shape.header_length + length + keying.shape.icv_length, .sequence = 3};
  esp_open(pair.open_thread, pair.open, opened, 1);
  free_pair(&pair);
  return opened->result;
}

static void trailers_are_checked_after_the_icv(void) {
  static const struct {
    uint8_t tail[4];
    enum esp_result result;
    size_t payload_length;
  } cases[] = {
      {{9, 9, 0, 4}, ESP_OK, 14},          {{9, 1, 1, 41}, ESP_OK, 13},          {{1, 2, 2, 59}, ESP_OK, 12},
      {{9, 9, 1, 4}, ESP_BAD_TRAILER, 0},  {{1, 1, 2, 4}, ESP_BAD_TRAILER, 0},   {{1, 2, 3, 4}, ESP_BAD_TRAILER, 0},
      {{9, 9, 15, 4}, ESP_BAD_TRAILER, 0}, {{9, 9, 255, 4}, ESP_BAD_TRAILER, 0}, {{9, 9, 0, 6}, ESP_BAD_TRAILER, 0},
      {{9, 9, 0, 0}, ESP_BAD_TRAILER, 0},  {{9, 9, 0, 255}, ESP_BAD_TRAILER, 0}, {{9, 9, 0, 17}, ESP_BAD_TRAILER, 0},
  };
  for (size_t s = 0; s < SUITES; s++)
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
      uint8_t text[16];
      struct esp_open_item opened;
      memset(text, 0xee, sizeof text);
      memcpy(text + 12, cases[i].tail, 4);
      CHECK(open_with_trailer(&suites[s], text, sizeof text, &opened) == cases[i].result);
      if (cases[i].result == ESP_OK)
        CHECK(opened.payload_length == cases[i].payload_length && opened.next_header == cases[i].tail[3]);
    }
}

static void padding_of_255_octets_is_read_in_full(void) {
  uint8_t text[272];
  struct esp_open_item opened;
  memset(text, 0xee, sizeof text);
  for (size_t i = 0; i < 255; i++)
    text[15 + i] = (uint8_t)(i + 1);
  text[270] = 255;
  text[271] = 4;
  CHECK(open_with_trailer(&suites[CBC_256_SHA256_ESN], text, sizeof text, &opened) == ESP_OK &&
        opened.payload_length == 15);
  text[15 + 200] ^= 1;
  CHECK(open_with_trailer(&suites[CBC_256_SHA256_ESN], text, sizeof text, &opened) == ESP_BAD_TRAILER);
}

/* The padding would begin in the IV, whose last octet is the 1 it ought to begin with. */
static void padding_that_reaches_before_the_text_is_refused(void) {
  for (size_t s = 0; s < SUITES; s++) {
    uint8_t text[16];
    struct esp_open_item opened;
    for (size_t i = 0; i < 14; i++)
      text[i] = (uint8_t)(i + 2);
    text[14] = 15;
    text[15] = 4;
    CHECK(open_with_trailer(&suites[s], text, sizeof text, &opened) == ESP_BAD_TRAILER);
  }
}

int main(void) {
  setup();
  RUN(any_flipped_bit_fails_alone_in_its_burst);
  RUN(wrong_high_sequence_fails_with_esn_only);
  RUN(truncated_and_random_packets_fail_in_bounds);
  RUN(trailers_are_checked_after_the_icv);
  RUN(padding_of_255_octets_is_read_in_full);
  RUN(padding_that_reaches_before_the_text_is_refused);
  return 0;
}
