/* The libcrypto engine (OpenSSL >= 3.0): portable fallback, and the path of lone CBC packets of the ipsec-mb engine.
 *
 * EVP contexts are mutable, keys are shared by all threads: a key holds one cipher context per thread slot, made by
 * that thread on its first packet. HMAC keeps the digest states after the inner and the outer key block (RFC 2104 4).
 */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aead.h"

struct openssl_key {
  struct aead_keying keying;
  EVP_CIPHER *cipher;
  EVP_MD *digest;
  EVP_MD_CTX *inner, *outer;
  EVP_CIPHER_CTX *contexts[AEAD_THREADS];
};

struct openssl_thread {
  unsigned slot;
  EVP_MD_CTX *scratch;
};

static bool openssl_usable(void) {
  return true;
}

static char library_name[64];
static pthread_once_t name_once = PTHREAD_ONCE_INIT;

static void write_name(void) {
  snprintf(library_name, sizeof library_name, "libcrypto %s", OpenSSL_version(OPENSSL_VERSION_STRING));
}

static const char *openssl_name(void) {
  pthread_once(&name_once, write_name);
  return library_name;
}

/* ---- keys ---- */

static const char *cipher_name(const struct aead_keying *keying) {
  static const char *const gcm[] = {"AES-128-GCM", "AES-192-GCM", "AES-256-GCM"};
  static const char *const cbc[] = {"AES-128-CBC", "AES-192-CBC", "AES-256-CBC"};
  size_t size = keying->cipher_key_length / 8 - 2;
  switch (keying->suite.encryption) {
  case ESP_AES_CBC:
    return cbc[size];
  case ESP_CHACHA20_POLY1305:
    return "ChaCha20-Poly1305";
  default:
    return gcm[size];
  }
}

static const char *const digest_names[] = {
    [ESP_HMAC_SHA1_96] = "SHA1",
    [ESP_HMAC_SHA2_256_128] = "SHA256",
    [ESP_HMAC_SHA2_384_192] = "SHA384",
    [ESP_HMAC_SHA2_512_256] = "SHA512",
};

/* The digest state after one block of the key xor `mask`. The key is never longer than a block here. */
static EVP_MD_CTX *hmac_state(const EVP_MD *digest, const struct aead_keying *keying, uint8_t mask) {
  uint8_t block[128];
  size_t block_length = (size_t)EVP_MD_get_block_size(digest);
  EVP_MD_CTX *state = EVP_MD_CTX_new();
  memset(block, mask, sizeof block);
  for (size_t i = 0; i < keying->integrity_key_length; i++)
    block[i] ^= keying->integrity_key[i];
  bool good = state && EVP_DigestInit_ex(state, digest, NULL) == 1 && EVP_DigestUpdate(state, block, block_length) == 1;
  OPENSSL_cleanse(block, sizeof block);
  if (good) return state;
  EVP_MD_CTX_free(state);
  return NULL;
}

static bool prepare_hmac(struct openssl_key *key) {
  key->digest = EVP_MD_fetch(NULL, digest_names[key->keying.suite.integrity], NULL);
  if (!key->digest) return false;
  key->inner = hmac_state(key->digest, &key->keying, 0x36);
  key->outer = hmac_state(key->digest, &key->keying, 0x5c);
  return key->inner && key->outer;
}

static void openssl_key_free(void *opaque) {
  struct openssl_key *key = opaque;
  if (!key) return;
  for (size_t i = 0; i < AEAD_THREADS; i++)
    EVP_CIPHER_CTX_free(key->contexts[i]);
  EVP_MD_CTX_free(key->inner);
  EVP_MD_CTX_free(key->outer);
  EVP_MD_free(key->digest);
  EVP_CIPHER_free(key->cipher);
  OPENSSL_cleanse(key, sizeof *key);
  free(key);
}

static void *openssl_key_new(const struct aead_keying *keying) {
  struct openssl_key *key = calloc(1, sizeof *key);
  if (!key) return NULL;
  key->keying = *keying;
  key->cipher = EVP_CIPHER_fetch(NULL, cipher_name(keying), NULL);
  bool hmac = keying->suite.integrity != ESP_INTEG_NONE;
  if (key->cipher && (!hmac || prepare_hmac(key))) return key;
  openssl_key_free(key);
  return NULL;
}

/* ---- threads ---- */

static void openssl_thread_free(void *opaque) {
  struct openssl_thread *thread = opaque;
  EVP_MD_CTX_free(thread->scratch);
  free(thread);
}

static void *openssl_thread_new(unsigned slot) {
  struct openssl_thread *thread = calloc(1, sizeof *thread);
  if (!thread) return NULL;
  thread->slot = slot;
  thread->scratch = EVP_MD_CTX_new();
  if (thread->scratch) return thread;
  free(thread);
  return NULL;
}

/* Only this thread touches its slot, so no lock; NULL when memory is out. */
static EVP_CIPHER_CTX *context_of(const struct openssl_thread *thread, struct openssl_key *key) {
  EVP_CIPHER_CTX *context = key->contexts[thread->slot];
  if (context) return context;
  context = EVP_CIPHER_CTX_new();
  if (!context) return NULL;
  if (EVP_CipherInit_ex(context, key->cipher, NULL, key->keying.cipher_key, NULL, key->keying.seal) != 1 ||
      EVP_CIPHER_CTX_set_padding(context, 0) != 1) {
    EVP_CIPHER_CTX_free(context);
    return NULL;
  }
  key->contexts[thread->slot] = context;
  return context;
}

/* ---- AES-GCM and ChaCha20-Poly1305 ---- */

static bool combined_start(EVP_CIPHER_CTX *context, const struct openssl_key *key, const struct aead_packet *packet) {
  uint8_t nonce[AEAD_NONCE], aad[AEAD_AAD_MAX];
  int written;
  aead_nonce(nonce, key->keying.salt, packet->esp + AEAD_FIXED_HEADER);
  int aad_length = (int)aead_aad(aad, key->keying.suite.esn, packet);
  return EVP_CipherInit_ex(context, NULL, NULL, NULL, nonce, -1) == 1 &&
         EVP_CipherUpdate(context, NULL, &written, aad, aad_length) == 1;
}

static bool combined_one(EVP_CIPHER_CTX *context, const struct openssl_key *key, const struct aead_packet *packet) {
  uint8_t *text = packet->esp + key->keying.shape.header_length;
  uint8_t *icv = text + packet->text_length;
  int icv_length = key->keying.shape.icv_length, written;
  if (!combined_start(context, key, packet) ||
      EVP_CipherUpdate(context, text, &written, text, (int)packet->text_length) != 1)
    return false;
  if (key->keying.seal)
    return EVP_CipherFinal_ex(context, icv, &written) == 1 &&
           EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, icv_length, icv) == 1;
  /* The comparison inside Final is CRYPTO_memcmp. */
  return EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, icv_length, icv) == 1 &&
         EVP_CipherFinal_ex(context, icv, &written) == 1;
}

/* ---- AES-CBC with HMAC ---- */

/* RFC 4303 2.8: ICV over SPI, sequence, IV and text, and over the untransmitted high sequence bits with ESN. */
static bool hmac_one(const struct openssl_thread *thread, const struct openssl_key *key,
                     const struct aead_packet *packet, uint8_t mac[AEAD_DIGEST_MAX]) {
  EVP_MD_CTX *scratch = thread->scratch;
  unsigned length;
  uint8_t high[4];
  aead_store32(high, (uint32_t)(packet->sequence >> 32));
  size_t covered = key->keying.shape.header_length + packet->text_length;
  return EVP_MD_CTX_copy_ex(scratch, key->inner) == 1 && EVP_DigestUpdate(scratch, packet->esp, covered) == 1 &&
         (!key->keying.suite.esn || EVP_DigestUpdate(scratch, high, sizeof high) == 1) &&
         EVP_DigestFinal_ex(scratch, mac, &length) == 1 && EVP_MD_CTX_copy_ex(scratch, key->outer) == 1 &&
         EVP_DigestUpdate(scratch, mac, length) == 1 && EVP_DigestFinal_ex(scratch, mac, &length) == 1;
}

static bool cbc_one(EVP_CIPHER_CTX *context, const struct openssl_key *key, const struct aead_packet *packet) {
  uint8_t *text = packet->esp + key->keying.shape.header_length;
  int written;
  return EVP_CipherInit_ex(context, NULL, NULL, NULL, packet->esp + AEAD_FIXED_HEADER, -1) == 1 &&
         EVP_CipherUpdate(context, text, &written, text, (int)packet->text_length) == 1;
}

static bool cbc_hmac_seal_one(const struct openssl_thread *thread, EVP_CIPHER_CTX *context,
                              const struct openssl_key *key, const struct aead_packet *packet) {
  uint8_t mac[AEAD_DIGEST_MAX];
  if (!cbc_one(context, key, packet) || !hmac_one(thread, key, packet, mac)) return false;
  memcpy(packet->esp + key->keying.shape.header_length + packet->text_length, mac, key->keying.shape.icv_length);
  return true;
}

static bool cbc_hmac_open_one(const struct openssl_thread *thread, EVP_CIPHER_CTX *context,
                              const struct openssl_key *key, const struct aead_packet *packet) {
  uint8_t mac[AEAD_DIGEST_MAX];
  const uint8_t *icv = packet->esp + key->keying.shape.header_length + packet->text_length;
  if (!hmac_one(thread, key, packet, mac) || CRYPTO_memcmp(mac, icv, key->keying.shape.icv_length) != 0) return false;
  return cbc_one(context, key, packet);
}

/* ---- bursts ---- */

static void openssl_burst(void *opaque_thread, void *opaque_key, struct aead_packet *packets, size_t count) {
  const struct openssl_thread *thread = opaque_thread;
  struct openssl_key *key = opaque_key;
  EVP_CIPHER_CTX *context = context_of(thread, key);
  bool cbc = key->keying.suite.encryption == ESP_AES_CBC;
  for (size_t i = 0; i < count; i++) {
    if (!context)
      packets[i].ok = false;
    else if (!cbc)
      packets[i].ok = combined_one(context, key, &packets[i]);
    else if (key->keying.seal)
      packets[i].ok = cbc_hmac_seal_one(thread, context, key, &packets[i]);
    else
      packets[i].ok = cbc_hmac_open_one(thread, context, key, &packets[i]);
  }
}

const struct aead_engine aead_openssl = {
    .usable = openssl_usable,
    .name = openssl_name,
    .key_new = openssl_key_new,
    .key_free = openssl_key_free,
    .thread_new = openssl_thread_new,
    .thread_free = openssl_thread_free,
    .seal = openssl_burst,
    .open = openssl_burst,
};
