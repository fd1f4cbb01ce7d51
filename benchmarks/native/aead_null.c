/* The null cipher of the benchmarks: stands where the libipsec-mb engine
 * stands, and neither ciphers nor authenticates.
 *
 * It shows what the data plane costs without cryptography. It is linked into an
 * extension module that only `python -m benchmarks` builds, in a build
 * directory of its own; the product does not contain it, so that no
 * configuration can lead there. Framing, sequence numbers, replay window and
 * selectors are the product's own.
 */
#include <stdlib.h>
#include <string.h>

#include "aead.h"

struct null_key {
  struct esp_shape shape;
};

static bool null_usable(void) { return true; }

static const char *null_name(void) { return "null cipher (benchmark only)"; }

static void *null_key_new(const struct aead_keying *keying) {
  struct null_key *key = malloc(sizeof *key);
  if (key)
    key->shape = keying->shape;
  return key;
}

static void null_key_free(void *key) { free(key); }

static void *null_thread_new(unsigned slot) {
  (void)slot;
  return malloc(1);
}

static void null_thread_free(void *thread) { free(thread); }

/* The ICV's octets are written, for that much of memory traffic is not the
 * cipher's. */
static void null_seal(void *thread, void *opaque, struct aead_packet *packets,
                      size_t count) {
  const struct null_key *key = opaque;
  (void)thread;
  for (size_t i = 0; i < count; i++) {
    memset(packets[i].esp + key->shape.header_length + packets[i].text_length,
           0, key->shape.icv_length);
    packets[i].ok = true;
  }
}

static void null_open(void *thread, void *opaque, struct aead_packet *packets,
                      size_t count) {
  (void)thread, (void)opaque;
  for (size_t i = 0; i < count; i++)
    packets[i].ok = true;
}

const struct aead_engine aead_ipsecmb = {
    .usable = null_usable,
    .name = null_name,
    .key_new = null_key_new,
    .key_free = null_key_free,
    .thread_new = null_thread_new,
    .thread_free = null_thread_free,
    .seal = null_seal,
    .open = null_open,
};
