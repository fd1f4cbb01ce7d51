/* ESP framing (RFC 4303 2): header, IV, padding and trailer around what an engine of aead.h ciphers.
 *
 * Not here: replay windows (replay.c), SA lookup, sequence number assignment, inner packet checks.
 */
#include "esp.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "aead.h"

enum { AEAD_IV_LENGTH = 8, CBC_IV_LENGTH = 16, IV_POOL_LENGTH = 256 * CBC_IV_LENGTH };
enum { OPEN_SLICE_OCTETS = 24 * 1024 }; /* half of an L1 cache */
enum { NEXT_HEADER_IPV4 = 4, NEXT_HEADER_IPV6 = 41, NEXT_HEADER_NONE = 59 };

struct esp_key {
  const struct aead_engine *engine;
  void *engine_key;
  struct esp_shape shape;
  uint32_t spi;
  bool cbc;
  bool esn;
};

struct esp_thread {
  const struct aead_engine *engine;
  void *engine_thread;
  unsigned slot;
  size_t iv_left; /* octets of iv_pool not used yet */
  uint8_t iv_pool[IV_POOL_LENGTH];
};

static atomic_uint_fast64_t used_slots;

static const struct aead_engine *engine_table(enum esp_engine engine) {
#ifdef HAVE_IPSECMB
  if (esp_engine_resolve(engine) == ESP_ENGINE_IPSECMB) return &aead_ipsecmb;
#else
  (void)engine;
#endif
  return &aead_openssl;
}

enum esp_engine esp_engine_resolve(enum esp_engine wanted) {
#ifdef HAVE_IPSECMB
  if (wanted != ESP_ENGINE_LIBCRYPTO && aead_ipsecmb.usable()) return ESP_ENGINE_IPSECMB;
#else
  (void)wanted;
#endif
  return ESP_ENGINE_LIBCRYPTO;
}

const char *esp_engine_name(enum esp_engine engine) {
  return engine_table(engine)->name();
}

/* ---- keys ---- */

/* RFC 4106 8.1: GCM keys may be of every AES length. RFC 7634 2: ChaCha20's are 256 bits. */
static const struct {
  uint8_t shortest_key, iv_length, icv_length, alignment, salt;
  const char *key_error;
} encryption_table[] = {
    [ESP_AES_GCM_16] = {16, AEAD_IV_LENGTH, 16, 4, AEAD_SALT, "AES-GCM key must be 20, 28 or 36 octets, salt included"},
    [ESP_AES_GCM_12] = {16, AEAD_IV_LENGTH, 12, 4, AEAD_SALT, "AES-GCM key must be 20, 28 or 36 octets, salt included"},
    [ESP_AES_GCM_8] = {16, AEAD_IV_LENGTH, 8, 4, AEAD_SALT, "AES-GCM key must be 20, 28 or 36 octets, salt included"},
    [ESP_CHACHA20_POLY1305] = {32, AEAD_IV_LENGTH, 16, 4, AEAD_SALT,
                               "ChaCha20-Poly1305 key must be 36 octets, salt included"},
    [ESP_AES_CBC] = {16, CBC_IV_LENGTH, 0, 16, 0, "AES-CBC key must be 16, 24 or 32 octets"},
};

static const struct {
  uint8_t key_length, icv_length;
} integrity_table[] = {
    [ESP_INTEG_NONE] = {0, 0},          [ESP_HMAC_SHA1_96] = {20, 12}, /* RFC 2404 */
    [ESP_HMAC_SHA2_256_128] = {32, 16},                                /* RFC 4868 2.6 */
    [ESP_HMAC_SHA2_384_192] = {48, 24}, [ESP_HMAC_SHA2_512_256] = {64, 32},
};

static const char *suite_error(const struct esp_suite *suite, size_t encryption_key_length,
                               size_t integrity_key_length) {
  if ((unsigned)suite->encryption > ESP_AES_CBC) return "unknown encryption algorithm";
  if ((unsigned)suite->integrity > ESP_HMAC_SHA2_512_256) return "unknown integrity algorithm";
  bool cbc = suite->encryption == ESP_AES_CBC;
  if (!cbc && suite->integrity != ESP_INTEG_NONE) return "an AEAD takes no separate integrity algorithm";
  if (cbc && suite->integrity == ESP_INTEG_NONE) return "AES-CBC without an integrity algorithm is refused";
  size_t salt = encryption_table[suite->encryption].salt, length = encryption_key_length - salt;
  if ((length != 16 && length != 24 && length != 32) || length < encryption_table[suite->encryption].shortest_key)
    return encryption_table[suite->encryption].key_error;
  if (integrity_key_length != integrity_table[suite->integrity].key_length)
    return "integrity key must be as long as the digest";
  return NULL;
}

static struct esp_shape suite_shape(const struct esp_suite *suite) {
  uint8_t iv_length = encryption_table[suite->encryption].iv_length;
  /* One of the two has the ICV, the other says 0. */
  uint8_t icv_length = encryption_table[suite->encryption].icv_length + integrity_table[suite->integrity].icv_length;
  return (struct esp_shape){.iv_length = iv_length,
                            .icv_length = icv_length,
                            .alignment = encryption_table[suite->encryption].alignment,
                            .header_length = AEAD_FIXED_HEADER + iv_length};
}

struct esp_key *esp_key_new(enum esp_engine engine, const struct esp_suite *suite, const uint8_t *encryption_key,
                            size_t encryption_key_length, const uint8_t *integrity_key, size_t integrity_key_length,
                            uint32_t spi, bool seal, const char **error) {
  *error = suite_error(suite, encryption_key_length, integrity_key_length);
  if (*error) return NULL;
  bool cbc = suite->encryption == ESP_AES_CBC;
  struct aead_keying keying = {.suite = *suite, .shape = suite_shape(suite), .seal = seal};
  keying.cipher_key_length = encryption_key_length - (cbc ? 0 : AEAD_SALT);
  memcpy(keying.cipher_key, encryption_key, keying.cipher_key_length);
  if (!cbc) memcpy(keying.salt, encryption_key + keying.cipher_key_length, AEAD_SALT);
  keying.integrity_key_length = integrity_key_length;
  if (integrity_key_length) memcpy(keying.integrity_key, integrity_key, integrity_key_length);

  struct esp_key *key = calloc(1, sizeof *key);
  if (key) {
    *key = (struct esp_key){
        .engine = engine_table(engine), .shape = keying.shape, .spi = spi, .cbc = cbc, .esn = suite->esn};
    key->engine_key = key->engine->key_new(&keying);
  }
  OPENSSL_cleanse(&keying, sizeof keying);
  if (key && key->engine_key) return key;
  free(key);
  *error = "out of memory";
  return NULL;
}

void esp_key_free(struct esp_key *key) {
  if (!key) return;
  key->engine->key_free(key->engine_key);
  free(key);
}

const struct esp_shape *esp_key_shape(const struct esp_key *key) {
  return &key->shape;
}

size_t esp_header_length(const struct esp_key *key) {
  return key->shape.header_length;
}

size_t esp_sealed_length(const struct esp_key *key, size_t payload_length) {
  return esp_shape_sealed(&key->shape, payload_length);
}

size_t esp_open_slice(const struct esp_key *key) {
  return key->cbc ? SIZE_MAX : OPEN_SLICE_OCTETS;
}

size_t esp_minimum_length(const struct esp_key *key) {
  return (size_t)key->shape.header_length + key->shape.alignment + key->shape.icv_length;
}

/* ---- threads ---- */

static bool slot_take(unsigned *slot) {
  uint_fast64_t used = atomic_load(&used_slots);
  while (used != UINT64_MAX) {
    unsigned candidate = (unsigned)__builtin_ctzll(~used);
    if (atomic_compare_exchange_weak(&used_slots, &used, used | (UINT64_C(1) << candidate))) {
      *slot = candidate;
      return true;
    }
  }
  return false;
}

struct esp_thread *esp_thread_new(enum esp_engine engine) {
  struct esp_thread *thread = calloc(1, sizeof *thread);
  if (!thread) return NULL;
  if (!slot_take(&thread->slot)) {
    free(thread);
    return NULL;
  }
  thread->engine = engine_table(engine);
  thread->engine_thread = thread->engine->thread_new(thread->slot);
  if (thread->engine_thread) return thread;
  esp_thread_free(thread);
  return NULL;
}

void esp_thread_free(struct esp_thread *thread) {
  if (!thread) return;
  if (thread->engine_thread) thread->engine->thread_free(thread->engine_thread);
  atomic_fetch_and(&used_slots, ~(UINT64_C(1) << thread->slot));
  OPENSSL_cleanse(thread, sizeof *thread);
  free(thread);
}

/* ---- seal ---- */

/* RFC 3602 3: the IV must be unpredictable; RFC 4303 has been attacked where it was not. Drawn in bulk from libcrypto's
 * per-thread AES-CTR DRBG, each octet used once. */
static bool next_cbc_iv(struct esp_thread *thread, uint8_t *iv) {
  if (thread->iv_left < CBC_IV_LENGTH) {
    if (RAND_bytes(thread->iv_pool, IV_POOL_LENGTH) != 1) return false;
    thread->iv_left = IV_POOL_LENGTH;
  }
  thread->iv_left -= CBC_IV_LENGTH;
  memcpy(iv, thread->iv_pool + thread->iv_left, CBC_IV_LENGTH);
  return true;
}

/* RFC 4303 2.4: padding 1, 2, 3, ... to the alignment, no more, so that equal payloads give equal packets. */
static void write_trailer(uint8_t *text, size_t payload_length, size_t length, uint8_t next_header) {
  size_t pad_length = length - payload_length - ESP_TRAILER_LENGTH;
  for (size_t i = 0; i < pad_length; i++)
    text[payload_length + i] = (uint8_t)(i + 1);
  text[length - 2] = (uint8_t)pad_length;
  text[length - 1] = next_header;
}

static bool frame(struct esp_thread *thread, const struct esp_key *key, const struct esp_seal_item *item,
                  struct aead_packet *packet) {
  /* RFC 4303 3.3.3: the counter must not cycle, and 0 is never sent. */
  if (item->sequence == 0 || (!key->esn && item->sequence > UINT32_MAX)) return false;
  uint8_t *esp = item->packet;
  aead_store32(esp, key->spi);
  aead_store32(esp + 4, (uint32_t)item->sequence);
  /* RFC 4106 3.1, RFC 7634 2: any IV that never repeats under the key; the 64-bit sequence number is one. */
  if (!key->cbc)
    aead_store64(esp + AEAD_FIXED_HEADER, item->sequence);
  else if (!next_cbc_iv(thread, esp + AEAD_FIXED_HEADER))
    return false;
  *packet = (struct aead_packet){
      .esp = esp, .text_length = esp_shape_text(&key->shape, item->payload_length), .sequence = item->sequence};
  write_trailer(esp + key->shape.header_length, item->payload_length, packet->text_length, item->next_header);
  return true;
}

/* Not even a caller that overlooks length 0 may put plaintext on the wire. */
static void wipe_unsealed(const struct esp_key *key, const struct esp_seal_item *item) {
  OPENSSL_cleanse(item->packet + key->shape.header_length,
                  esp_sealed_length(key, item->payload_length) - key->shape.header_length);
}

static void wipe_burst(const struct esp_key *key, struct esp_seal_item *items, size_t count) {
  for (size_t i = 0; i < count; i++) {
    items[i].length = 0;
    wipe_unsealed(key, &items[i]);
  }
}

/* What the engine made of the framed packets, which are items `origin`. */
static size_t sealed_lengths(const struct esp_key *key, struct esp_seal_item *items, const struct aead_packet *packets,
                             const uint8_t *origin, size_t framed) {
  size_t overhead = (size_t)key->shape.header_length + key->shape.icv_length, sealed = 0;
  for (size_t i = 0; i < framed; i++) {
    items[origin[i]].length = packets[i].ok ? overhead + packets[i].text_length : 0;
    sealed += packets[i].ok;
  }
  return sealed;
}

static size_t seal_burst(struct esp_thread *thread, const struct esp_key *key, struct esp_seal_item *items,
                         size_t count) {
  struct aead_packet packets[AEAD_BURST];
  uint8_t origin[AEAD_BURST];
  size_t framed = 0;
  for (size_t i = 0; i < count; i++) {
    items[i].length = 0;
    if (!frame(thread, key, &items[i], &packets[framed])) continue;
    origin[framed++] = (uint8_t)i;
  }
  if (framed) key->engine->seal(thread->engine_thread, key->engine_key, packets, framed);
  size_t sealed = sealed_lengths(key, items, packets, origin, framed);
  for (size_t i = 0; i < count && sealed < count; i++)
    if (items[i].length == 0) wipe_unsealed(key, &items[i]);
  return sealed;
}

size_t esp_seal(struct esp_thread *thread, const struct esp_key *key, struct esp_seal_item *items, size_t count) {
  size_t sealed = 0;
  if (thread->engine != key->engine) {
    wipe_burst(key, items, count);
    return 0;
  }
  while (count) {
    size_t burst = count < AEAD_BURST ? count : AEAD_BURST;
    sealed += seal_burst(thread, key, items, burst);
    items += burst;
    count -= burst;
  }
  return sealed;
}

/* ---- open ---- */

/* RFC 4303 2.4: the padding is checked, after the ICV, so a failure tells nothing to who does not hold the key. */
static enum esp_result read_trailer(const struct esp_key *key, const struct aead_packet *packet,
                                    struct esp_open_item *item) {
  uint8_t *text = packet->esp + key->shape.header_length;
  size_t pad_length = text[packet->text_length - 2];
  uint8_t next_header = text[packet->text_length - 1];
  if (pad_length + ESP_TRAILER_LENGTH > packet->text_length) return ESP_BAD_TRAILER;
  size_t payload_length = packet->text_length - ESP_TRAILER_LENGTH - pad_length;
  for (size_t i = 0; i < pad_length; i++)
    if (text[payload_length + i] != (uint8_t)(i + 1)) return ESP_BAD_TRAILER;
  if (next_header != NEXT_HEADER_IPV4 && next_header != NEXT_HEADER_IPV6 && next_header != NEXT_HEADER_NONE)
    return ESP_BAD_TRAILER;
  item->payload = text;
  item->payload_length = payload_length;
  item->next_header = next_header;
  return ESP_OK;
}

static void open_burst(struct esp_thread *thread, const struct esp_key *key, struct esp_open_item *items,
                       size_t count) {
  struct aead_packet packets[AEAD_BURST];
  uint8_t origin[AEAD_BURST];
  size_t framed = 0;
  for (size_t i = 0; i < count; i++) {
    items[i].result = ESP_TOO_SHORT;
    if (items[i].length < esp_minimum_length(key)) continue;
    size_t text = items[i].length - key->shape.header_length - key->shape.icv_length;
    if (text % key->shape.alignment) continue;
    packets[framed] = (struct aead_packet){.esp = items[i].packet, .text_length = text, .sequence = items[i].sequence};
    origin[framed++] = (uint8_t)i;
  }
  if (framed) key->engine->open(thread->engine_thread, key->engine_key, packets, framed);
  for (size_t i = 0; i < framed; i++) {
    struct esp_open_item *item = &items[origin[i]];
    item->result = packets[i].ok ? read_trailer(key, &packets[i], item) : ESP_BAD_ICV;
  }
}

void esp_open(struct esp_thread *thread, const struct esp_key *key, struct esp_open_item *items, size_t count) {
  if (thread->engine != key->engine) {
    for (size_t i = 0; i < count; i++)
      items[i].result = ESP_BAD_ICV;
    return;
  }
  while (count) {
    size_t burst = count < AEAD_BURST ? count : AEAD_BURST;
    open_burst(thread, key, items, burst);
    items += burst;
    count -= burst;
  }
}
