/* One path of the heartbeat: what is sealed, and what is echoed (probe.h; gateway/ha/sealed.py and message.py).
 *
 *     prefix(28) sequence(8) | AES-256-GCM of the body | tag(16)
 *
 *     body:  0 sent_us(8)   8 held_us(4)   12 revision(8)   20 challenge(16)
 *           36 echo: boot(16)   52 sequence(8)   60 sent_us(8)   68 challenge(16)   84 what the core says
 *
 * The sequence is counted here and nowhere else, so a nonce is used once under a key. Nothing that arrived moves
 * anything before its tag verified. No locks: the tables' is held.
 */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "aead.h"
#include "probe_tables.h"

#define KEY_OCTETS 32
#define TAG_OCTETS 16

#define MAJOR_AT   4
#define BOOT_AT    12
#define HEADER     36
#define LEAST_SENT (HEADER + BEAT_BODY_LEAST + TAG_OCTETS)

#define SENT_AT           0
#define HELD_AT           8
#define CHALLENGE_AT      20
#define ECHO_BOOT_AT      36
#define ECHO_SEQUENCE_AT  52
#define ECHO_SENT_AT      60
#define ECHO_CHALLENGE_AT 68
#define CHALLENGE_OCTETS  16

struct cipher {
  EVP_CIPHER_CTX *context; /* NULL: none */
  uint8_t salt[AEAD_SALT];
};

struct ciphers {
  struct cipher seal, open[BEAT_KEYS_MAX];
};

/* The newest datagram of the peer. */
struct echo {
  bool heard;
  uint64_t sequence, at_ns;
  uint8_t sent_us[8], challenge[CHALLENGE_OCTETS];
};

struct beat {
  int socket;
  struct ciphers ciphers;
  uint64_t sequence; /* of the last datagram that was sealed */
  uint64_t vouched_until_ns;
  uint8_t prefix[BEAT_PREFIX], body[BEAT_BODY_MAX], peer[BEAT_BOOT_OCTETS];
  size_t length;
  bool follows;
  struct echo echo;
};

static uint64_t load64(const uint8_t *in) {
  uint64_t value = 0;
  for (int i = 0; i < 8; i++)
    value = value << 8 | in[i];
  return value;
}

/* ---- keys ---- */

static bool cipher_begin(struct cipher *cipher, const uint8_t key[BEAT_KEY_OCTETS], int seal) {
  memcpy(cipher->salt, key + KEY_OCTETS, sizeof cipher->salt);
  cipher->context = EVP_CIPHER_CTX_new();
  return cipher->context && EVP_CipherInit_ex(cipher->context, EVP_aes_256_gcm(), NULL, key, NULL, seal) == 1;
}

/* libcrypto wipes what a context held. */
static void ciphers_end(struct ciphers *ciphers) {
  EVP_CIPHER_CTX_free(ciphers->seal.context);
  for (size_t i = 0; i < BEAT_KEYS_MAX; i++)
    EVP_CIPHER_CTX_free(ciphers->open[i].context);
  OPENSSL_cleanse(ciphers, sizeof *ciphers);
}

static bool ciphers_begin(struct ciphers *ciphers, const struct beat_program *program) {
  *ciphers = (struct ciphers){0};
  bool good = cipher_begin(&ciphers->seal, program->seal, 1);
  for (size_t i = 0; i < program->open_count && good; i++)
    good = cipher_begin(&ciphers->open[i], program->open[i], 0);
  if (!good) ciphers_end(ciphers);
  return good;
}

/* The nonce is the salt and the sequence, the header is authenticated (as RFC 4106 4 and 5 do it). */
static bool message_begin(const struct cipher *cipher, const uint8_t header[HEADER]) {
  uint8_t nonce[AEAD_NONCE];
  int written;
  aead_nonce(nonce, cipher->salt, header + BEAT_PREFIX);
  return EVP_CipherInit_ex(cipher->context, NULL, NULL, NULL, nonce, -1) == 1 &&
         EVP_CipherUpdate(cipher->context, NULL, &written, header, HEADER) == 1;
}

static bool open_body(const struct cipher *cipher, const uint8_t *data, size_t length, uint8_t *body) {
  uint8_t tag[TAG_OCTETS];
  int written, body_length = (int)(length - HEADER - TAG_OCTETS);
  memcpy(tag, data + length - TAG_OCTETS, sizeof tag);
  /* The comparison inside Final is CRYPTO_memcmp. */
  return message_begin(cipher, data) &&
         EVP_CipherUpdate(cipher->context, body, &written, data + HEADER, body_length) == 1 &&
         EVP_CIPHER_CTX_ctrl(cipher->context, EVP_CTRL_AEAD_SET_TAG, TAG_OCTETS, tag) == 1 &&
         EVP_CipherFinal_ex(cipher->context, body + written, &written) == 1;
}

/* ---- arming ---- */

struct beat *beat_new(void) {
  struct beat *beat = calloc(1, sizeof *beat);
  if (beat) beat->socket = -1;
  return beat;
}

void beat_free(struct beat *beat) {
  if (!beat) return;
  ciphers_end(&beat->ciphers);
  free(beat);
}

/* Of the same peer the newer one counts: the core may have heard less than we did, or more, of what our keys do not
 * open. */
static void adopt_echo(struct beat *beat, const struct beat_program *program) {
  bool same = beat->follows && program->open_count && memcmp(beat->peer, program->peer, sizeof beat->peer) == 0;
  if (!same) beat->echo.heard = false;
  beat->follows = program->open_count > 0;
  memcpy(beat->peer, program->peer, sizeof beat->peer);
  const uint8_t *body = program->body;
  uint64_t sequence = load64(body + ECHO_SEQUENCE_AT);
  if (!beat->follows || memcmp(body + ECHO_BOOT_AT, program->peer, sizeof beat->peer) != 0 ||
      (beat->echo.heard && beat->echo.sequence >= sequence))
    return;
  beat->echo = (struct echo){.heard = true, .sequence = sequence, .at_ns = program->echoed_ns};
  memcpy(beat->echo.sent_us, body + ECHO_SENT_AT, sizeof beat->echo.sent_us);
  memcpy(beat->echo.challenge, body + ECHO_CHALLENGE_AT, sizeof beat->echo.challenge);
}

bool beat_arm(struct beat *beat, const struct beat_program *program) {
  struct ciphers ciphers;
  if (!ciphers_begin(&ciphers, program)) return false;
  ciphers_end(&beat->ciphers);
  beat->ciphers = ciphers;
  beat->socket = program->socket;
  beat->vouched_until_ns = beat_clock() + program->hold_ns;
  beat->length = program->length;
  memcpy(beat->prefix, program->prefix, sizeof beat->prefix);
  memcpy(beat->body, program->body, program->length);
  adopt_echo(beat, program);
  return true;
}

void beat_rest(struct beat *beat) {
  ciphers_end(&beat->ciphers);
  beat->socket = -1;
  beat->follows = beat->echo.heard = false;
}

int beat_socket(const struct beat *beat) {
  return beat->socket;
}

bool beat_vouched(const struct beat *beat) {
  return beat_clock() <= beat->vouched_until_ns;
}

/* ---- sealing ---- */

static void write_echo(const struct echo *echo, const uint8_t *peer, uint64_t now, uint8_t *body) {
  uint64_t held_us = now > echo->at_ns ? (now - echo->at_ns) / 1000 : 0;
  aead_store32(body + HELD_AT, held_us < UINT32_MAX ? (uint32_t)held_us : UINT32_MAX);
  memcpy(body + ECHO_BOOT_AT, peer, BEAT_BOOT_OCTETS);
  aead_store64(body + ECHO_SEQUENCE_AT, echo->sequence);
  memcpy(body + ECHO_SENT_AT, echo->sent_us, sizeof echo->sent_us);
  memcpy(body + ECHO_CHALLENGE_AT, echo->challenge, sizeof echo->challenge);
}

size_t beat_seal(struct beat *beat, const uint8_t *body, size_t length, uint8_t out[BEAT_OCTETS_MAX]) {
  uint8_t *text = out + HEADER;
  uint64_t now = beat_clock();
  int written;
  if (beat->socket < 0 || beat->sequence == UINT64_MAX) return 0;
  bool regular = !body;
  if (regular) {
    body = beat->body;
    length = beat->length;
  }
  memcpy(out, beat->prefix, BEAT_PREFIX);
  aead_store64(out + BEAT_PREFIX, ++beat->sequence);
  memcpy(text, body, length);
  aead_store64(text + SENT_AT, now / 1000);
  if (regular && beat->echo.heard) write_echo(&beat->echo, beat->peer, now, text);
  EVP_CIPHER_CTX *context = beat->ciphers.seal.context;
  bool sealed = message_begin(&beat->ciphers.seal, out) &&
                EVP_CipherUpdate(context, text, &written, text, (int)length) == 1 &&
                EVP_CipherFinal_ex(context, text + length, &written) == 1 &&
                EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG_OCTETS, text + length) == 1;
  return sealed ? HEADER + length + TAG_OCTETS : 0;
}

/* ---- hearing ---- */

bool beat_hear(struct beat *beat, const uint8_t *data, size_t length, uint64_t now) {
  uint8_t body[BEAT_OCTETS_MAX];
  if (!beat->follows || length < LEAST_SENT || length > BEAT_OCTETS_MAX) return false;
  /* Family, major version and boot, before anything is computed for it */
  if (memcmp(data, beat->prefix, MAJOR_AT + 1) != 0 || memcmp(data + BOOT_AT, beat->peer, sizeof beat->peer) != 0)
    return false;
  uint64_t sequence = load64(data + BEAT_PREFIX);
  if (beat->echo.heard && sequence <= beat->echo.sequence) return false;
  bool authentic = false;
  for (size_t i = 0; i < BEAT_KEYS_MAX && beat->ciphers.open[i].context && !authentic; i++)
    authentic = open_body(&beat->ciphers.open[i], data, length, body);
  if (!authentic) return false;
  beat->echo = (struct echo){.heard = true, .sequence = sequence, .at_ns = now};
  memcpy(beat->echo.sent_us, body + SENT_AT, sizeof beat->echo.sent_us);
  memcpy(beat->echo.challenge, body + CHALLENGE_AT, sizeof beat->echo.challenge);
  return true;
}
