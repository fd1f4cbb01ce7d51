/* ESP packets in memory (RFC 4303): seal and open, no input or output, no tables.
 *
 * Everything here is plain C11 without Python, sockets or threads, so that it can be unit-tested,
 * fuzzed and compared with gateway/esp/reference.py.
 */
#ifndef GATEWAY_ESP_H
#define GATEWAY_ESP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum esp_encryption {
  ESP_AES_GCM_16, /* RFC 4106 */
  ESP_AES_GCM_12,
  ESP_AES_GCM_8,
  ESP_CHACHA20_POLY1305, /* RFC 7634 */
  ESP_AES_CBC,           /* RFC 3602 */
};
enum esp_integrity {
  ESP_INTEG_NONE,
  ESP_HMAC_SHA1_96,
  ESP_HMAC_SHA2_256_128,
  ESP_HMAC_SHA2_384_192,
  ESP_HMAC_SHA2_512_256,
};

struct esp_suite {
  enum esp_encryption encryption;
  enum esp_integrity integrity;
  bool esn;
};

/* Octets of each part of a packet, fixed by the suite (RFC 4303 2). */
struct esp_shape {
  uint8_t iv_length;
  uint8_t icv_length;
  uint8_t alignment;     /* of payload, padding and trailer */
  uint8_t header_length; /* SPI, sequence and IV */
};
#define ESP_TRAILER_LENGTH 2 /* pad length, next header */

/* Payload, padding and trailer. */
static inline size_t esp_shape_text(const struct esp_shape *shape, size_t payload_length) {
  size_t mask = (size_t)shape->alignment - 1;
  return (payload_length + ESP_TRAILER_LENGTH + mask) & ~mask;
}

static inline size_t esp_shape_sealed(const struct esp_shape *shape, size_t payload_length) {
  return shape->header_length + esp_shape_text(shape, payload_length) + shape->icv_length;
}

/* Keys of one SA with every schedule and inner/outer HMAC state precomputed. Immutable after creation, hence usable by
 * every worker at once. Opaque: the engine decides what is inside. */
struct esp_key;

/* Per-thread scratch of an engine (IMB_MGR, EVP contexts, the CBC IV generator). Never shared. */
struct esp_thread;

enum esp_result {
  ESP_OK,
  ESP_TOO_SHORT, /* shorter than header + IV + ICV, or not a whole number of blocks */
  ESP_BAD_ICV,
  ESP_BAD_TRAILER, /* pad length beyond the payload, wrong pad octets, or next header neither 4, 41 nor 59 */
};

/* One packet of a burst to seal: `packet` points at the ESP header's first octet; the inner packet of `payload_length`
 * octets already stands at packet + esp_header_length(). There must be room for esp_sealed_length(). The sequence
 * number was reserved by the caller; `sequence` is 64 bits also without ESN. After the call `length` is the whole ESP
 * packet. */
struct esp_seal_item {
  uint8_t *packet;
  size_t payload_length;
  uint64_t sequence;
  uint8_t next_header; /* 4 IPv4, 41 IPv6 */
  size_t length; /* out; 0 when it could not be sealed (engine failure, sequence 0 or beyond 32 bits without ESN): never
                    send it */
};

/* One packet of a burst to open, in place. `sequence` is the caller's full 64-bit inference (high 32 bits matter only
 * with ESN). On ESP_OK, payload..payload_length is the inner packet and any TFC padding behind it (RFC 4303 2.7: the
 * caller trims to the inner packet's own length). On any other result the packet's text is undefined. */
struct esp_open_item {
  uint8_t *packet;
  size_t length;
  uint64_t sequence;
  uint8_t *payload;       /* out */
  size_t payload_length;  /* out */
  uint8_t next_header;    /* out */
  enum esp_result result; /* out */
};

enum esp_engine { ESP_ENGINE_AUTO, ESP_ENGINE_IPSECMB, ESP_ENGINE_LIBCRYPTO };

/* The engine that ESP_ENGINE_AUTO means on this machine, and its name and version for people. */
enum esp_engine esp_engine_resolve(enum esp_engine wanted); /* falls back to libcrypto */
const char *esp_engine_name(enum esp_engine engine);

/* NULL with *error set to a sentence when the key lengths do not fit the suite. For an AEAD
 * the salt follows the cipher key. */
struct esp_key *esp_key_new(enum esp_engine engine, const struct esp_suite *suite, const uint8_t *encryption_key,
                            size_t encryption_key_length, const uint8_t *integrity_key, size_t integrity_key_length,
                            uint32_t spi, bool seal, const char **error);
void esp_key_free(struct esp_key *key); /* wipes */

/* NULL when memory is out or 64 threads have one. Thread and key of one call must be of the same engine. */
struct esp_thread *esp_thread_new(enum esp_engine engine);
void esp_thread_free(struct esp_thread *thread);

const struct esp_shape *esp_key_shape(const struct esp_key *key);
size_t esp_header_length(const struct esp_key *key);                        /* SPI, sequence, IV */
size_t esp_sealed_length(const struct esp_key *key, size_t payload_length); /* the whole ESP packet */
size_t esp_minimum_length(const struct esp_key *key);
/* How many octets of a burst the suite wants to open at once: what was opened last is in the nearest cache only while
 * that is little, but the lanes of a multi-buffer cipher have to be filled. */
size_t esp_open_slice(const struct esp_key *key);

/* Bursts of one SA; any count >= 1. CBC uses the multi-buffer path from a measured threshold up, libcrypto below it.
 * Gives how many were sealed. */
size_t esp_seal(struct esp_thread *thread, const struct esp_key *key, struct esp_seal_item *items, size_t count);
void esp_open(struct esp_thread *thread, const struct esp_key *key, struct esp_open_item *items, size_t count);

#endif
