/* The seam between ESP framing (esp.c) and a crypto library: one table of functions per engine.
 *
 * An engine ciphers and authenticates whole bursts of framed ESP packets of one SA, in place (RFC 4106, RFC 3602,
 * RFC 4868, RFC 7634). It knows no padding, no replay window and no trailer; those are esp.c's.
 *
 *     SPI(4) sequence(4) | IV | text = payload, padding, trailer | ICV
 *     ^ packet->esp            ^ shape.header_length               ^ + text_length
 */
#ifndef GATEWAY_AEAD_H
#define GATEWAY_AEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "esp.h"

#define AEAD_BURST        128 /* packets per engine call; the burst limit of ipsec-mb 1.3 */
#define AEAD_THREADS      64  /* threads that may hold an esp_thread at once */
#define AEAD_FIXED_HEADER 8
#define AEAD_SALT         4
#define AEAD_NONCE        12
#define AEAD_AAD_MAX      12
#define AEAD_DIGEST_MAX   64
#define AEAD_ICV_MAX      32

/* Everything an engine needs to expand its keys. Wiped by esp.c as soon as key_new returned. */
struct aead_keying {
  struct esp_suite suite;
  struct esp_shape shape;
  uint8_t cipher_key[32];
  size_t cipher_key_length;
  uint8_t salt[AEAD_SALT];
  uint8_t integrity_key[AEAD_DIGEST_MAX];
  size_t integrity_key_length;
  bool seal;
};

struct aead_packet {
  uint8_t *esp;
  size_t text_length;
  uint64_t sequence;
  bool ok; /* out: sealed, or verified and decrypted. When false the text must not be used */
};

struct aead_engine {
  bool (*usable)(void);
  const char *(*name)(void);
  void *(*key_new)(const struct aead_keying *keying); /* NULL: out of memory */
  void (*key_free)(void *key);                        /* wipes; NULL is fine */
  void *(*thread_new)(unsigned slot);                 /* `slot` < AEAD_THREADS, unique among live threads */
  void (*thread_free)(void *thread);
  /* 1 <= count <= AEAD_BURST. For CBC the IV already stands in the packet when sealing. */
  void (*seal)(void *thread, void *key, struct aead_packet *packets, size_t count);
  void (*open)(void *thread, void *key, struct aead_packet *packets, size_t count);
};

extern const struct aead_engine aead_openssl;
#ifdef HAVE_IPSECMB
extern const struct aead_engine aead_ipsecmb;
#endif

static inline void aead_store32(uint8_t *out, uint32_t value) {
  out[0] = (uint8_t)(value >> 24);
  out[1] = (uint8_t)(value >> 16);
  out[2] = (uint8_t)(value >> 8);
  out[3] = (uint8_t)value;
}

static inline void aead_store64(uint8_t *out, uint64_t value) {
  aead_store32(out, (uint32_t)(value >> 32));
  aead_store32(out + 4, (uint32_t)value);
}

/* RFC 4106 4, RFC 7634 2: nonce is the salt followed by the explicit IV. */
static inline void aead_nonce(uint8_t nonce[AEAD_NONCE], const uint8_t salt[AEAD_SALT], const uint8_t *iv) {
  __builtin_memcpy(nonce, salt, AEAD_SALT);
  __builtin_memcpy(nonce + AEAD_SALT, iv, AEAD_NONCE - AEAD_SALT);
}

/* RFC 4106 5, RFC 7634 2.1: SPI and sequence number, 32 bits of it or 64 with ESN. Returns the length. */
static inline size_t aead_aad(uint8_t aad[AEAD_AAD_MAX], bool esn, const struct aead_packet *packet) {
  __builtin_memcpy(aad, packet->esp, 4);
  if (!esn) {
    __builtin_memcpy(aad + 4, packet->esp + 4, 4);
    return 8;
  }
  aead_store32(aad + 4, (uint32_t)(packet->sequence >> 32));
  __builtin_memcpy(aad + 8, packet->esp + 4, 4);
  return 12;
}

#endif
