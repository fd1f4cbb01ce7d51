/* The libipsec-mb engine (>= 1.3): AES-GCM and ChaCha20-Poly1305 by the direct API, CBC + HMAC in multi-buffer by the
 * synchronous bursts.
 *
 * One IMB_MGR per thread (it is not thread safe); keys hold only expanded schedules and are shared. A CBC burst smaller
 * than the key's burst_minimum runs through libcrypto, because a nearly empty set of lanes costs as much as a full one.
 */
#ifdef HAVE_IPSECMB

#define NO_COMPAT_IMB_API_053
#include <intel-ipsec-mb.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aead.h"

/* The multi-buffer hashes of 1.3 take up to 65534 octets; nothing that fits a UDP datagram with its ESN comes near. */
#define BURST_PACKET_MAX 65000
#define CACHE_LINE       64
#define HMAC_BLOCK_MAX   128

struct ipsecmb_key {
  struct gcm_key_data gcm;
  uint8_t chacha_key[32];
  uint8_t encrypt_schedule[16 * 15] __attribute__((aligned(16)));
  uint8_t decrypt_schedule[16 * 15] __attribute__((aligned(16)));
  uint8_t inner[AEAD_DIGEST_MAX], outer[AEAD_DIGEST_MAX]; /* digest states in the order the one-block functions leave */
  aes_gcm_enc_dec_t gcm_function;
  struct esp_shape shape;
  uint8_t salt[AEAD_SALT];
  enum esp_encryption encryption;
  bool esn;
  size_t cipher_key_length;
  IMB_HASH_ALG hash;
  size_t burst_minimum;
  void *lone; /* the libcrypto key of small CBC bursts */
};

struct gcm_inputs {
  uint8_t nonce[16]; /* 12 of them */
  uint8_t aad[16];   /* 12, with ESN */
};

struct ipsecmb_thread {
  IMB_MGR *manager;
  struct gcm_inputs gcm_inputs[AEAD_BURST];
  void *lone;
  struct gcm_context_data gcm_context;
  struct chacha20_poly1305_context_data chacha_context;
  IMB_JOB jobs[AEAD_BURST];
  uint8_t macs[AEAD_BURST][AEAD_DIGEST_MAX];
  uint8_t icvs[AEAD_BURST][AEAD_ICV_MAX];
};

/* ---- the library ---- */

/* For function pointers and key expansion only, which leave the manager untouched: safe from any thread. */
static IMB_MGR *shared;
static char library_name[64];
static pthread_once_t shared_once = PTHREAD_ONCE_INIT;

/* A manager's lanes hold digest states derived from keys, and the library's own free does not wipe them. */
static void manager_free(IMB_MGR *manager) {
  OPENSSL_cleanse(manager, imb_get_mb_mgr_size());
  free(manager);
}

static IMB_MGR *manager_new(IMB_ARCH *arch) {
  void *memory = aligned_alloc(CACHE_LINE, (imb_get_mb_mgr_size() + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
  if (!memory) return NULL;
  memset(memory, 0, imb_get_mb_mgr_size());
  IMB_MGR *manager = imb_set_pointers_mb_mgr(memory, 0, 1);
  if (!manager) {
    free(memory);
    return NULL;
  }
  init_mb_mgr_auto(manager, arch);
  bool tested = !(manager->features & IMB_FEATURE_SELF_TEST) || (manager->features & IMB_FEATURE_SELF_TEST_PASS);
  /* Below SSE with AES-NI the library emulates AES in software, slower than libcrypto. */
  if (imb_get_errno(manager) == 0 && tested && *arch > IMB_ARCH_NOAESNI) return manager;
  manager_free(manager);
  return NULL;
}

static void shared_init(void) {
  static const char *const arch_names[IMB_ARCH_NUM] = {
      [IMB_ARCH_SSE] = "SSE", [IMB_ARCH_AVX] = "AVX", [IMB_ARCH_AVX2] = "AVX2", [IMB_ARCH_AVX512] = "AVX512"};
  IMB_ARCH arch = IMB_ARCH_NONE;
  shared = manager_new(&arch);
  if (!shared) return;
  snprintf(library_name, sizeof library_name, "ipsec-mb %s (%s)", imb_get_version_str(), arch_names[arch]);
}

static bool ipsecmb_usable(void) {
  pthread_once(&shared_once, shared_init);
  return shared != NULL;
}

static const char *ipsecmb_name(void) {
  return ipsecmb_usable() ? library_name : "ipsec-mb (unusable)";
}

/* ---- keys ---- */

static void expand_aes(struct ipsecmb_key *key, const struct aead_keying *keying) {
  void (*expand)(const void *, void *, void *) = keying->cipher_key_length == 16   ? shared->keyexp_128
                                                 : keying->cipher_key_length == 24 ? shared->keyexp_192
                                                                                   : shared->keyexp_256;
  expand(keying->cipher_key, key->encrypt_schedule, key->decrypt_schedule);
}

static void expand_gcm(struct ipsecmb_key *key, const struct aead_keying *keying) {
  switch (keying->cipher_key_length) {
  case 16:
    IMB_AES128_GCM_PRE(shared, keying->cipher_key, &key->gcm);
    key->gcm_function = keying->seal ? shared->gcm128_enc : shared->gcm128_dec;
    break;
  case 24:
    IMB_AES192_GCM_PRE(shared, keying->cipher_key, &key->gcm);
    key->gcm_function = keying->seal ? shared->gcm192_enc : shared->gcm192_dec;
    break;
  default:
    IMB_AES256_GCM_PRE(shared, keying->cipher_key, &key->gcm);
    key->gcm_function = keying->seal ? shared->gcm256_enc : shared->gcm256_dec;
    break;
  }
}

/* RFC 2104 2: the digest states after the key block xor ipad and xor opad, once per key instead of once per packet. */
static void expand_hmac(struct ipsecmb_key *key, const struct aead_keying *keying) {
  /* The minima are the break-even against libcrypto 3.0 by tests/measure_esp.c; SHA-NI helps it with SHA-1 and
   * SHA-256, and opening deciphers in parallel anyway. */
  const struct {
    IMB_HASH_ALG hash;
    hash_one_block_t one_block;
    uint8_t seal_minimum, open_minimum;
  } table[] = {
      [ESP_HMAC_SHA1_96] = {IMB_AUTH_HMAC_SHA_1, shared->sha1_one_block, 5, 7},
      [ESP_HMAC_SHA2_256_128] = {IMB_AUTH_HMAC_SHA_256, shared->sha256_one_block, 5, 7},
      [ESP_HMAC_SHA2_384_192] = {IMB_AUTH_HMAC_SHA_384, shared->sha384_one_block, 3, 3},
      [ESP_HMAC_SHA2_512_256] = {IMB_AUTH_HMAC_SHA_512, shared->sha512_one_block, 3, 3},
  };
  uint8_t block[HMAC_BLOCK_MAX];
  hash_one_block_t one_block = table[keying->suite.integrity].one_block;
  key->hash = table[keying->suite.integrity].hash;
  key->burst_minimum =
      keying->seal ? table[keying->suite.integrity].seal_minimum : table[keying->suite.integrity].open_minimum;
  memset(block, 0x36, sizeof block);
  for (size_t i = 0; i < keying->integrity_key_length; i++)
    block[i] ^= keying->integrity_key[i];
  one_block(block, key->inner);
  for (size_t i = 0; i < sizeof block; i++)
    block[i] ^= 0x36 ^ 0x5c;
  one_block(block, key->outer);
  OPENSSL_cleanse(block, sizeof block);
}

static void ipsecmb_key_free(void *opaque) {
  struct ipsecmb_key *key = opaque;
  if (!key) return;
  aead_openssl.key_free(key->lone);
  OPENSSL_cleanse(key, sizeof *key);
  free(key);
}

static void *ipsecmb_key_new(const struct aead_keying *keying) {
  size_t size = (sizeof(struct ipsecmb_key) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  struct ipsecmb_key *key = aligned_alloc(CACHE_LINE, size);
  if (!key) return NULL;
  memset(key, 0, size);
  key->shape = keying->shape;
  key->esn = keying->suite.esn;
  key->encryption = keying->suite.encryption;
  key->cipher_key_length = keying->cipher_key_length;
  memcpy(key->salt, keying->salt, sizeof key->salt);
  if (key->encryption == ESP_CHACHA20_POLY1305) {
    memcpy(key->chacha_key, keying->cipher_key, sizeof key->chacha_key);
    return key;
  }
  if (key->encryption != ESP_AES_CBC) {
    expand_gcm(key, keying);
    return key;
  }
  expand_aes(key, keying);
  expand_hmac(key, keying);
  key->lone = aead_openssl.key_new(keying);
  if (key->lone) return key;
  ipsecmb_key_free(key);
  return NULL;
}

/* ---- threads ---- */

static void ipsecmb_thread_free(void *opaque) {
  struct ipsecmb_thread *thread = opaque;
  if (thread->lone) aead_openssl.thread_free(thread->lone);
  if (thread->manager) manager_free(thread->manager);
  OPENSSL_cleanse(thread, sizeof *thread);
  free(thread);
}

static void *ipsecmb_thread_new(unsigned slot) {
  size_t size = (sizeof(struct ipsecmb_thread) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  struct ipsecmb_thread *thread = aligned_alloc(CACHE_LINE, size);
  if (!thread) return NULL;
  memset(thread, 0, size);
  IMB_ARCH arch = IMB_ARCH_NONE;
  thread->manager = manager_new(&arch);
  thread->lone = aead_openssl.thread_new(slot);
  if (thread->manager && thread->lone) return thread;
  ipsecmb_thread_free(thread);
  return NULL;
}

/* ---- AES-GCM ---- */

static uint8_t *text_of(const struct ipsecmb_key *key, const struct aead_packet *packet) {
  return packet->esp + key->shape.header_length;
}

static uint8_t *icv_of(const struct ipsecmb_key *key, const struct aead_packet *packet) {
  return text_of(key, packet) + packet->text_length;
}

/* For the whole burst before the first cipher call: what was stored in pieces a moment ago cannot be loaded whole at
 * once, and the cipher would wait for it. */
static void gcm_prepare(struct ipsecmb_thread *thread, const struct ipsecmb_key *key, const struct aead_packet *packets,
                        size_t count) {
  for (size_t i = 0; i < count; i++) {
    aead_nonce(thread->gcm_inputs[i].nonce, key->salt, packets[i].esp + AEAD_FIXED_HEADER);
    if (key->esn) aead_aad(thread->gcm_inputs[i].aad, true, &packets[i]);
  }
}

static void gcm_one(struct ipsecmb_thread *thread, const struct ipsecmb_key *key, const struct aead_packet *packet,
                    struct gcm_inputs *inputs, uint8_t *tag) {
  uint8_t *text = text_of(key, packet);
  /* Without ESN it is the packet's own SPI and sequence number. */
  const uint8_t *aad = key->esn ? inputs->aad : packet->esp;
  key->gcm_function(&key->gcm, &thread->gcm_context, text, text, packet->text_length, inputs->nonce, aad,
                    key->esn ? AEAD_AAD_MAX : AEAD_FIXED_HEADER, tag, key->shape.icv_length);
}

static void gcm_seal(struct ipsecmb_thread *thread, const struct ipsecmb_key *key, struct aead_packet *packets,
                     size_t count) {
  gcm_prepare(thread, key, packets, count);
  for (size_t i = 0; i < count; i++) {
    gcm_one(thread, key, &packets[i], &thread->gcm_inputs[i], icv_of(key, &packets[i]));
    packets[i].ok = true;
  }
}

/* In constant time. `length` is a multiple of 4. */
static bool icv_equal(const uint8_t *a, const uint8_t *b, size_t length) {
  uint32_t differences = 0, left, right;
  for (size_t i = 0; i < length; i += sizeof left) {
    memcpy(&left, a + i, sizeof left);
    memcpy(&right, b + i, sizeof right);
    differences |= left ^ right;
  }
  return differences == 0;
}

static void gcm_open(struct ipsecmb_thread *thread, const struct ipsecmb_key *key, struct aead_packet *packets,
                     size_t count) {
  uint8_t tag[16];
  gcm_prepare(thread, key, packets, count);
  for (size_t i = 0; i < count; i++) {
    gcm_one(thread, key, &packets[i], &thread->gcm_inputs[i], tag);
    packets[i].ok = icv_equal(tag, icv_of(key, &packets[i]), key->shape.icv_length);
  }
}

/* ---- ChaCha20-Poly1305 ---- */

static void chacha_start(struct ipsecmb_thread *thread, const struct ipsecmb_key *key,
                         const struct aead_packet *packet) {
  uint8_t nonce[AEAD_NONCE], aad[AEAD_AAD_MAX];
  aead_nonce(nonce, key->salt, packet->esp + AEAD_FIXED_HEADER);
  size_t aad_length = aead_aad(aad, key->esn, packet);
  IMB_CHACHA20_POLY1305_INIT(thread->manager, key->chacha_key, &thread->chacha_context, nonce, aad, aad_length);
}

static void chacha_seal(struct ipsecmb_thread *thread, const struct ipsecmb_key *key, struct aead_packet *packets,
                        size_t count) {
  for (size_t i = 0; i < count; i++) {
    uint8_t *text = text_of(key, &packets[i]);
    chacha_start(thread, key, &packets[i]);
    IMB_CHACHA20_POLY1305_ENC_UPDATE(thread->manager, key->chacha_key, &thread->chacha_context, text, text,
                                     packets[i].text_length);
    IMB_CHACHA20_POLY1305_ENC_FINALIZE(thread->manager, &thread->chacha_context, icv_of(key, &packets[i]),
                                       key->shape.icv_length);
    packets[i].ok = true;
  }
}

static void chacha_open(struct ipsecmb_thread *thread, const struct ipsecmb_key *key, struct aead_packet *packets,
                        size_t count) {
  uint8_t tag[16];
  for (size_t i = 0; i < count; i++) {
    uint8_t *text = text_of(key, &packets[i]);
    chacha_start(thread, key, &packets[i]);
    IMB_CHACHA20_POLY1305_DEC_UPDATE(thread->manager, key->chacha_key, &thread->chacha_context, text, text,
                                     packets[i].text_length);
    IMB_CHACHA20_POLY1305_DEC_FINALIZE(thread->manager, &thread->chacha_context, tag, key->shape.icv_length);
    packets[i].ok = CRYPTO_memcmp(tag, icv_of(key, &packets[i]), key->shape.icv_length) == 0;
  }
}

/* ---- AES-CBC with HMAC ---- */

/* Ciphers the packets whose `ok` is set and clears it where the library did not complete. */
static void cbc_burst(struct ipsecmb_thread *thread, const struct ipsecmb_key *key, struct aead_packet *packets,
                      size_t count, IMB_CIPHER_DIRECTION direction) {
  uint8_t origin[AEAD_BURST];
  uint32_t jobs = 0;
  for (size_t i = 0; i < count; i++) {
    if (!packets[i].ok) continue;
    origin[jobs] = (uint8_t)i;
    IMB_JOB *job = &thread->jobs[jobs++];
    job->enc_keys = key->encrypt_schedule;
    job->dec_keys = key->decrypt_schedule;
    job->key_len_in_bytes = key->cipher_key_length;
    job->src = job->dst = text_of(key, &packets[i]);
    job->cipher_start_src_offset_in_bytes = 0;
    job->msg_len_to_cipher_in_bytes = packets[i].text_length;
    job->iv = packets[i].esp + AEAD_FIXED_HEADER;
    job->iv_len_in_bytes = key->shape.iv_length;
    job->status = IMB_STATUS_BEING_PROCESSED;
  }
  if (!jobs) return;
  IMB_SUBMIT_CIPHER_BURST(thread->manager, thread->jobs, jobs, IMB_CIPHER_CBC, direction,
                          (IMB_KEY_SIZE_BYTES)key->cipher_key_length);
  for (uint32_t i = 0; i < jobs; i++)
    if (!(thread->jobs[i].status & IMB_STATUS_COMPLETED_CIPHER) || thread->jobs[i].status > IMB_STATUS_COMPLETED)
      packets[origin[i]].ok = false;
}

/* MACs of all packets into thread->macs. With ESN the caller has put the high sequence bits right behind the text:
 * RFC 4303 2.2.1, they are covered by the ICV though not transmitted. */
static void hmac_burst(struct ipsecmb_thread *thread, const struct ipsecmb_key *key, struct aead_packet *packets,
                       size_t count) {
  for (size_t i = 0; i < count; i++) {
    IMB_JOB *job = &thread->jobs[i];
    job->src = packets[i].esp;
    job->hash_start_src_offset_in_bytes = 0;
    job->msg_len_to_hash_in_bytes = key->shape.header_length + packets[i].text_length + (key->esn ? 4 : 0);
    job->auth_tag_output = thread->macs[i];
    job->auth_tag_output_len_in_bytes = key->shape.icv_length;
    job->u.HMAC._hashed_auth_key_xor_ipad = key->inner;
    job->u.HMAC._hashed_auth_key_xor_opad = key->outer;
    job->status = IMB_STATUS_BEING_PROCESSED;
  }
  IMB_SUBMIT_HASH_BURST(thread->manager, thread->jobs, (uint32_t)count, key->hash);
  for (size_t i = 0; i < count; i++)
    packets[i].ok =
        (thread->jobs[i].status & IMB_STATUS_COMPLETED_AUTH) && thread->jobs[i].status <= IMB_STATUS_COMPLETED;
}

static void store_high_sequence(const struct ipsecmb_key *key, const struct aead_packet *packet) {
  if (key->esn) aead_store32(icv_of(key, packet), (uint32_t)(packet->sequence >> 32));
}

static void cbc_seal(struct ipsecmb_thread *thread, const struct ipsecmb_key *key, struct aead_packet *packets,
                     size_t count) {
  bool sealed[AEAD_BURST];
  for (size_t i = 0; i < count; i++)
    packets[i].ok = true;
  cbc_burst(thread, key, packets, count, IMB_DIR_ENCRYPT);
  for (size_t i = 0; i < count; i++) {
    sealed[i] = packets[i].ok;
    store_high_sequence(key, &packets[i]);
  }
  hmac_burst(thread, key, packets, count);
  for (size_t i = 0; i < count; i++) {
    packets[i].ok = packets[i].ok && sealed[i];
    memcpy(icv_of(key, &packets[i]), thread->macs[i], key->shape.icv_length);
  }
}

/* The ICV decides before a single octet is decrypted, so padding can be no oracle. */
static void cbc_open(struct ipsecmb_thread *thread, const struct ipsecmb_key *key, struct aead_packet *packets,
                     size_t count) {
  for (size_t i = 0; i < count; i++) {
    memcpy(thread->icvs[i], icv_of(key, &packets[i]), key->shape.icv_length);
    store_high_sequence(key, &packets[i]);
  }
  hmac_burst(thread, key, packets, count);
  for (size_t i = 0; i < count; i++) {
    bool same = CRYPTO_memcmp(thread->macs[i], thread->icvs[i], key->shape.icv_length) == 0;
    packets[i].ok = packets[i].ok && same;
  }
  cbc_burst(thread, key, packets, count, IMB_DIR_DECRYPT);
}

/* ---- bursts ---- */

static bool fits_multi_buffer(const struct ipsecmb_key *key, const struct aead_packet *packets, size_t count) {
  if (count < key->burst_minimum) return false;
  for (size_t i = 0; i < count; i++)
    if (packets[i].text_length > BURST_PACKET_MAX) return false;
  return true;
}

static void ipsecmb_seal(void *opaque_thread, void *opaque_key, struct aead_packet *packets, size_t count) {
  struct ipsecmb_thread *thread = opaque_thread;
  struct ipsecmb_key *key = opaque_key;
  if (key->encryption == ESP_CHACHA20_POLY1305)
    chacha_seal(thread, key, packets, count);
  else if (key->encryption != ESP_AES_CBC)
    gcm_seal(thread, key, packets, count);
  else if (fits_multi_buffer(key, packets, count))
    cbc_seal(thread, key, packets, count);
  else
    aead_openssl.seal(thread->lone, key->lone, packets, count);
}

static void ipsecmb_open(void *opaque_thread, void *opaque_key, struct aead_packet *packets, size_t count) {
  struct ipsecmb_thread *thread = opaque_thread;
  struct ipsecmb_key *key = opaque_key;
  if (key->encryption == ESP_CHACHA20_POLY1305)
    chacha_open(thread, key, packets, count);
  else if (key->encryption != ESP_AES_CBC)
    gcm_open(thread, key, packets, count);
  else if (fits_multi_buffer(key, packets, count))
    cbc_open(thread, key, packets, count);
  else
    aead_openssl.open(thread->lone, key->lone, packets, count);
}

const struct aead_engine aead_ipsecmb = {
    .usable = ipsecmb_usable,
    .name = ipsecmb_name,
    .key_new = ipsecmb_key_new,
    .key_free = ipsecmb_key_free,
    .thread_new = ipsecmb_thread_new,
    .thread_free = ipsecmb_thread_free,
    .seal = ipsecmb_seal,
    .open = ipsecmb_open,
};

#else
typedef int aead_ipsecmb_is_not_compiled; /* ISO C wants a translation unit to hold something */
#endif
