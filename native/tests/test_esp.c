/* ESP sealing and opening: published vectors, engine against engine, one-shot libcrypto, limits, threads. */
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>

#include "esp_pair.h"

/* ---- published vectors (draft-mcgrew-gcm-test-01, RFC 7634 A): nonce and trailer are theirs, so below esp.c ---- */

struct aead_vector {
  const char *key, *nonce, *aad, *plain, *sealed;
};

static const struct aead_vector gcm_vectors[] = {
    {"4c80cdefbb5d10da906ac73c3613a634", "2e443b684956ed7e3b244cfe", "000043218765432100000000",
     "45000048699a000080114db7c0a80102c0a801010a9bf15638d301000001000000000000045f736970045f756470037369700963796265726"
     "369747902"
     "646b000021000101020201",
     "fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff624"
     "7aeabb786"
     "b93bce61bc17d768fd9732459018148f6cbe722fd04796562dfdb4"},
    {"feffe9928665731c6d6a8f9467308308feffe9928665731c", "cafebabefacedbaddecaf888", "0000a5f80000000a",
     "45000028a4ad4000400678800a01038f0a010612802306b8cb712602dd6bb03e501016d075680001",
     "a5b1f8066029aea40e598b8122de02420938b3ab33f828e687b8858b5bfbdbd0315b27452144cc7795457b9652037f5318027b5b4cd7a63"
     "6"},
    {"abbccddef00112233445566778899aababbccddef00112233445566778899aab", "112233440102030405060708", "4a2cbfe300000002",
     "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee0000000007002400020bf0000020405b40101040201020201",
     "ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763748a637985771d347f0545659f14e99def842d8eb335f4eec"
     "fdbf83182"
     "4b4c4915956c96"},
    {"7d773d00c144c525ac619d18c84a3f47", "d966426743457e9182443bc6", "335467aeffffffff", "01020201",
     "437f866bcb3f699fe9b0822bac961c4504bef270"},
};

static size_t unhex(const char *text, uint8_t *out) {
  size_t length = strlen(text) / 2;
  for (size_t i = 0; i < length; i++)
    CHECK(sscanf(text + 2 * i, "%2hhx", &out[i]) == 1);
  return length;
}

static uint64_t load_be(const uint8_t *from, size_t octets) {
  uint64_t value = 0;
  for (size_t i = 0; i < octets; i++)
    value = value << 8 | from[i];
  return value;
}

static const struct aead_vector chacha_vector = {
    "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f", "a0a1a2a31011121314151617", "0102030400000005",
    "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec100007362708090a0b0c0d0e0f101112131415161718191a1b1c"
    "1"
    "d1e1f202122232425262728292a2b2c2d2e2f303132333435363701020204",
    "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9be"
    "f"
    "e2facc638e8f3cbec163fac469b502773f6fb94e664da9165b82829f641e076aaa8266b7fb0f7b11b369907e1ad43"};

/* NIST SP 800-38D 7.1: a shorter tag is the beginning of the long one. */
static void check_vector(const struct aead_engine *engine, enum esp_encryption encryption, uint8_t icv_length,
                         const struct aead_vector *vector) {
  uint8_t nonce[12], aad[12], plain[128], sealed[144], packet[160];
  struct aead_keying keying = {
      .suite = {encryption, ESP_INTEG_NONE, false}, .shape = {8, icv_length, 4, 16}, .seal = true};
  keying.cipher_key_length = unhex(vector->key, keying.cipher_key);
  unhex(vector->nonce, nonce);
  size_t aad_length = unhex(vector->aad, aad), plain_length = unhex(vector->plain, plain),
         sealed_length = unhex(vector->sealed, sealed);
  memcpy(keying.salt, nonce, 4);
  keying.suite.esn = aad_length == 12;
  memset(packet, 0xaa, sizeof packet);
  memcpy(packet, aad, 4);
  memcpy(packet + 4, aad + aad_length - 4, 4);
  memcpy(packet + 8, nonce + 4, 8);
  memcpy(packet + 16, plain, plain_length);
  struct aead_packet item = {.esp = packet, .text_length = plain_length, .sequence = load_be(aad + 4, aad_length - 4)};
  void *thread = engine->thread_new(5), *key = engine->key_new(&keying);
  engine->seal(thread, key, &item, 1);
  CHECK(item.ok && sealed_length == plain_length + 16);
  CHECK(memcmp(packet + 16, sealed, plain_length + icv_length) == 0);
  for (size_t i = plain_length + icv_length; i < sizeof packet - 16; i++)
    CHECK(packet[16 + i] == 0xaa);
  engine->key_free(key);
  keying.seal = false;
  key = engine->key_new(&keying);
  engine->open(thread, key, &item, 1);
  CHECK(item.ok && memcmp(packet + 16, plain, plain_length) == 0);
  memcpy(packet + 16, sealed, plain_length + icv_length);
  packet[16 + plain_length + icv_length - 1] ^= 1;
  engine->open(thread, key, &item, 1);
  CHECK(!item.ok);
  engine->key_free(key);
  engine->thread_free(thread);
}

static void check_vectors(const struct aead_engine *engine) {
  for (size_t i = 0; i < sizeof gcm_vectors / sizeof gcm_vectors[0]; i++) {
    check_vector(engine, ESP_AES_GCM_16, 16, &gcm_vectors[i]);
    check_vector(engine, ESP_AES_GCM_12, 12, &gcm_vectors[i]);
    check_vector(engine, ESP_AES_GCM_8, 8, &gcm_vectors[i]);
  }
  check_vector(engine, ESP_CHACHA20_POLY1305, 16, &chacha_vector);
}

static void combined_modes_match_published_vectors(void) {
  check_vectors(&aead_openssl);
#ifdef HAVE_IPSECMB
  if (aead_ipsecmb.usable()) check_vectors(&aead_ipsecmb);
#endif
}

/* ---- one burst there and back ---- */

static void check_round_trip(const struct pair *pair, const size_t *lengths, size_t count, uint64_t sequence) {
  struct esp_seal_item sealed[BURST];
  struct esp_open_item opened[BURST];
  fill(pair, sealed, lengths, count, sequence);
  for (size_t i = 0; i < count; i++) {
    CHECK(sealed[i].length == esp_sealed_length(pair->seal, lengths[i]));
    CHECK(load_be(arena[i], 4) == SPI && load_be(arena[i] + 4, 4) == (uint32_t)(sequence + i));
    opened[i] = (struct esp_open_item){.packet = arena[i], .length = sealed[i].length, .sequence = sequence + i};
  }
  esp_open(pair->open_thread, pair->open, opened, count);
  for (size_t i = 0; i < count; i++) {
    CHECK(opened[i].result == ESP_OK && opened[i].next_header == 4 && opened[i].payload_length == lengths[i]);
    CHECK(memcmp(opened[i].payload, remembered[i], lengths[i]) == 0);
  }
}

static void every_length_opens_with_the_other_engine(void) {
  for (size_t s = 0; s < SUITES; s++)
    for (size_t from = 0; from < engine_count; from++)
      for (size_t to = 0; to < engine_count; to++) {
        struct pair pair = new_pair(engines[from], engines[to], &suites[s]);
        size_t lengths[BURST], next = 0;
        uint64_t sequence = suites[s].suite.esn ? UINT64_C(0x1fffffff0) : 1;
        while (next < 1600) {
          size_t count = 1 + random_below(40);
          for (size_t i = 0; i < count; i++)
            lengths[i] = next++;
          check_round_trip(&pair, lengths, count, sequence);
          sequence += count;
        }
        free_pair(&pair);
      }
}

static void every_burst_size_works(void) {
  for (size_t s = 0; s < SUITES; s++)
    for (size_t e = 0; e < engine_count; e++) {
      struct pair pair = new_pair(engines[e], engines[engine_count - 1 - e], &suites[s]);
      size_t lengths[BURST];
      for (size_t count = 1; count <= BURST; count += count < 12 ? 1 : 17) {
        for (size_t i = 0; i < count; i++)
          lengths[i] = random_below(300);
        check_round_trip(&pair, lengths, count, 1000);
      }
      free_pair(&pair);
    }
}

static void large_packets_work(void) {
  static const size_t lengths[] = {8900, 16385, 64935, 65400};
  uint8_t *buffer = malloc(PACKET_ROOM), *copy = malloc(PACKET_ROOM);
  for (size_t s = 0; s < SUITES; s++)
    for (size_t e = 0; e < engine_count; e++)
      for (size_t l = 0; l < sizeof lengths / sizeof lengths[0]; l++) {
        struct pair pair = new_pair(engines[e], engines[0], &suites[s]);
        struct esp_seal_item item = {.packet = buffer, .payload_length = lengths[l], .sequence = 7, .next_header = 41};
        random_fill(buffer + esp_header_length(pair.seal), lengths[l]);
        memcpy(copy, buffer + esp_header_length(pair.seal), lengths[l]);
        esp_seal(pair.seal_thread, pair.seal, &item, 1);
        struct esp_open_item back = {.packet = buffer, .length = item.length, .sequence = 7};
        esp_open(pair.open_thread, pair.open, &back, 1);
        CHECK(back.result == ESP_OK && back.next_header == 41 && memcmp(back.payload, copy, lengths[l]) == 0);
        free_pair(&pair);
      }
  free(buffer);
  free(copy);
}

static void combined_modes_are_the_same_octets_from_both_engines(void) {
  if (engine_count < 2) return;
  for (size_t s = 0; s < FIRST_CBC; s++)
    for (size_t length = 0; length < 1500; length += 7) {
      uint8_t packets[2][1600];
      size_t lengths[2];
      for (size_t e = 0; e < 2; e++) {
        struct esp_key *key = new_key(engines[e], &suites[s], true);
        struct esp_thread *thread = esp_thread_new(engines[e]);
        memset(packets[e], 0x5a, sizeof packets[e]);
        struct esp_seal_item item = {
            .packet = packets[e], .payload_length = length, .sequence = 1 + length, .next_header = 4};
        esp_seal(thread, key, &item, 1);
        lengths[e] = item.length;
        /* RFC 4106 3.1, RFC 7634 2: the explicit IV is the 64-bit sequence number */
        CHECK(load_be(packets[e] + 8, 8) == 1 + length);
        esp_thread_free(thread);
        esp_key_free(key);
      }
      CHECK(lengths[0] == lengths[1] && memcmp(packets[0], packets[1], lengths[0]) == 0);
    }
}

/* ---- CBC and HMAC against one-shot libcrypto ---- */

static const EVP_MD *digest_of(enum esp_integrity integrity) {
  switch (integrity) {
  case ESP_HMAC_SHA1_96:
    return EVP_sha1();
  case ESP_HMAC_SHA2_256_128:
    return EVP_sha256();
  case ESP_HMAC_SHA2_384_192:
    return EVP_sha384();
  default:
    return EVP_sha512();
  }
}

static void check_icv(const struct named_suite *suite, const struct esp_key *key, const struct esp_seal_item *item) {
  uint8_t covered[2048], mac[64], icv_length[] = {0, 12, 16, 24, 32};
  size_t icv = icv_length[suite->suite.integrity], length = item->length - icv;
  memcpy(covered, item->packet, length);
  if (suite->suite.esn) {
    aead_store32(covered + length, (uint32_t)(item->sequence >> 32));
    length += 4;
  }
  HMAC(digest_of(suite->suite.integrity), integrity_key, (int)suite->integrity_key_length, covered, length, mac, NULL);
  CHECK(memcmp(mac, item->packet + item->length - icv, icv) == 0);
  CHECK(esp_minimum_length(key) == 8 + 16 + 16 + icv);
}

static void check_text(const struct named_suite *suite, const struct esp_seal_item *item, const uint8_t *payload) {
  const EVP_CIPHER *ciphers[] = {EVP_aes_128_cbc(), EVP_aes_192_cbc(), EVP_aes_256_cbc()};
  uint8_t text[2048];
  int length, rest;
  size_t text_length = (item->payload_length + 2 + 15) / 16 * 16;
  EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
  EVP_DecryptInit_ex(context, ciphers[suite->encryption_key_length / 8 - 2], NULL, encryption_key, item->packet + 8);
  EVP_CIPHER_CTX_set_padding(context, 0);
  EVP_DecryptUpdate(context, text, &length, item->packet + 24, (int)text_length);
  EVP_DecryptFinal_ex(context, text + length, &rest);
  EVP_CIPHER_CTX_free(context);
  CHECK(memcmp(text, payload, item->payload_length) == 0);
  size_t pad = text_length - item->payload_length - 2;
  for (size_t i = 0; i < pad; i++)
    CHECK(text[item->payload_length + i] == i + 1);
  CHECK(text[text_length - 2] == pad && text[text_length - 1] == 4);
}

static void cbc_and_hmac_match_one_shot_libcrypto(void) {
  for (size_t s = FIRST_CBC; s < SUITES; s++)
    for (size_t e = 0; e < engine_count; e++) {
      struct pair pair = new_pair(engines[e], engines[e], &suites[s]);
      struct esp_seal_item items[32];
      size_t lengths[32];
      for (size_t count = 1; count <= 32; count += 31) {
        for (size_t i = 0; i < count; i++)
          lengths[i] = random_below(1500);
        fill(&pair, items, lengths, count, suites[s].suite.esn ? UINT64_C(0x700000001) : 1);
        for (size_t i = 0; i < count; i++) {
          check_icv(&suites[s], pair.seal, &items[i]);
          check_text(&suites[s], &items[i], remembered[i]);
        }
      }
      free_pair(&pair);
    }
}

static void cbc_ivs_never_repeat(void) {
  struct pair pair = new_pair(engines[engine_count - 1], engines[0], &suites[CBC_192_SHA256]);
  static uint8_t ivs[2000][16];
  for (size_t i = 0; i < 2000; i++) {
    struct esp_seal_item item = {.packet = arena[0], .payload_length = 20, .sequence = 1 + i, .next_header = 4};
    esp_seal(pair.seal_thread, pair.seal, &item, 1);
    memcpy(ivs[i], arena[0] + 8, 16);
    for (size_t j = 0; j < i; j++)
      CHECK(memcmp(ivs[i], ivs[j], 16) != 0);
  }
  free_pair(&pair);
}

/* ---- limits and misuse ---- */

static void sequence_numbers_outside_their_range_are_not_sealed(void) {
  for (size_t s = 0; s < SUITES; s++) {
    struct pair pair = new_pair(engines[engine_count - 1], engines[0], &suites[s]);
    uint64_t sequences[] = {0, UINT64_C(1) << 32, 1, UINT32_MAX};
    struct esp_seal_item items[4];
    for (size_t i = 0; i < 4; i++) {
      items[i] =
          (struct esp_seal_item){.packet = arena[i], .payload_length = 20, .sequence = sequences[i], .next_header = 4};
      memset(arena[i] + esp_header_length(pair.seal), 0xaa, 20);
    }
    esp_seal(pair.seal_thread, pair.seal, items, 4);
    for (size_t i = 0; i < 20; i++)
      CHECK(arena[0][esp_header_length(pair.seal) + i] == 0); /* no plaintext is left to send */
    CHECK(items[0].length == 0 && items[2].length > 0 && items[3].length > 0);
    CHECK((items[1].length > 0) == suites[s].suite.esn);
    free_pair(&pair);
  }
}

static void key_lengths_that_do_not_fit_are_named(void) {
  for (size_t s = 0; s < SUITES; s++) {
    const char *error = NULL;
    const struct named_suite *suite = &suites[s];
    CHECK(!esp_key_new(ESP_ENGINE_AUTO, &suite->suite, encryption_key, suite->encryption_key_length - 1, integrity_key,
                       suite->integrity_key_length, SPI, true, &error) &&
          error);
    error = NULL;
    CHECK(!esp_key_new(ESP_ENGINE_AUTO, &suite->suite, encryption_key, suite->encryption_key_length, integrity_key,
                       suite->integrity_key_length + 1, SPI, true, &error) &&
          error);
  }
  const char *error = NULL;
  struct esp_suite chacha = {ESP_CHACHA20_POLY1305, ESP_INTEG_NONE, false};
  for (size_t length = 20; length < 36; length += 8) {
    CHECK(!esp_key_new(ESP_ENGINE_AUTO, &chacha, encryption_key, length, NULL, 0, SPI, true, &error) && error);
    error = NULL;
  }
  struct esp_suite bare = {ESP_AES_CBC, ESP_INTEG_NONE, false}, odd = {(enum esp_encryption)9, ESP_INTEG_NONE, false};
  CHECK(!esp_key_new(ESP_ENGINE_AUTO, &bare, encryption_key, 32, NULL, 0, SPI, true, &error) && error);
  error = NULL;
  CHECK(!esp_key_new(ESP_ENGINE_AUTO, &odd, encryption_key, 32, NULL, 0, SPI, true, &error) && error);
}

static void a_key_of_another_engine_is_refused(void) {
  if (engine_count < 2) return;
  struct esp_thread *thread = esp_thread_new(engines[0]);
  struct esp_key *key = new_key(engines[1], &suites[0], true);
  struct esp_seal_item item = {.packet = arena[0], .payload_length = 20, .sequence = 1, .next_header = 4, .length = 99};
  struct esp_open_item back = {.packet = arena[0], .length = 60, .sequence = 1};
  esp_seal(thread, key, &item, 1);
  esp_open(thread, key, &back, 1);
  CHECK(item.length == 0 && back.result == ESP_BAD_ICV);
  esp_key_free(key);
  esp_thread_free(thread);
}

static void threads_are_limited_and_reusable(void) {
  struct esp_thread *threads[AEAD_THREADS];
  for (size_t i = 0; i < AEAD_THREADS; i++)
    CHECK((threads[i] = esp_thread_new(ESP_ENGINE_LIBCRYPTO)));
  CHECK(!esp_thread_new(ESP_ENGINE_LIBCRYPTO));
  for (size_t i = 0; i < AEAD_THREADS; i++)
    esp_thread_free(threads[i]);
  struct esp_thread *again = esp_thread_new(ESP_ENGINE_LIBCRYPTO);
  CHECK(again);
  esp_thread_free(again);
}

/* ---- one key, many threads ---- */

struct shared_keys {
  struct esp_key *seal, *open;
  enum esp_engine engine;
};

static void *hammer(void *opaque) {
  const struct shared_keys *keys = opaque;
  struct esp_thread *thread = esp_thread_new(keys->engine);
  uint8_t packets[12][512];
  for (uint64_t round = 0; round < 300; round++) {
    size_t count = 1 + round % 12;
    struct esp_seal_item items[12];
    struct esp_open_item back[12];
    for (size_t i = 0; i < count; i++) {
      memset(packets[i] + esp_header_length(keys->seal), (int)(round + i), 300);
      items[i] =
          (struct esp_seal_item){.packet = packets[i], .payload_length = 300, .sequence = 1 + round, .next_header = 4};
    }
    esp_seal(thread, keys->seal, items, count);
    for (size_t i = 0; i < count; i++)
      back[i] = (struct esp_open_item){.packet = packets[i], .length = items[i].length, .sequence = 1 + round};
    esp_open(thread, keys->open, back, count);
    for (size_t i = 0; i < count; i++)
      CHECK(back[i].result == ESP_OK && back[i].payload[299] == (uint8_t)(round + i));
  }
  esp_thread_free(thread);
  return NULL;
}

static void threads_share_a_key(void) {
  for (size_t e = 0; e < engine_count; e++)
    for (size_t s = 0; s < SUITES; s += 3) {
      struct shared_keys keys = {new_key(engines[e], &suites[s], true), new_key(engines[e], &suites[s], false),
                                 engines[e]};
      pthread_t threads[4];
      for (size_t i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, hammer, &keys) == 0);
      for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
      esp_key_free(keys.seal);
      esp_key_free(keys.open);
    }
}

int main(void) {
  setup();
  RUN(combined_modes_match_published_vectors);
  RUN(every_length_opens_with_the_other_engine);
  RUN(every_burst_size_works);
  RUN(large_packets_work);
  RUN(combined_modes_are_the_same_octets_from_both_engines);
  RUN(cbc_and_hmac_match_one_shot_libcrypto);
  RUN(cbc_ivs_never_repeat);
  RUN(sequence_numbers_outside_their_range_are_not_sealed);
  RUN(key_lengths_that_do_not_fit_are_named);
  RUN(a_key_of_another_engine_is_refused);
  RUN(threads_are_limited_and_reusable);
  RUN(threads_share_a_key);
  return 0;
}
