/* The yardstick: libipsec-mb called directly, with nothing of ours around it.
 *
 * AES-GCM by the direct call, one packet each. AES-CBC with HMAC-SHA2-256 in bursts, by whichever of the library's two
 * ways is faster for the direction: jobs (seal) or the synchronous cipher and hash bursts (open). Keys are expanded and
 * nonces ready beforehand; texts are ciphered in place.
 */
#ifndef GATEWAY_BENCHMARKS_RAW_H
#define GATEWAY_BENCHMARKS_RAW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum raw_suite { RAW_GCM_128, RAW_GCM_256, RAW_CBC_256_SHA256 };

struct raw;

/* NULL where the library cannot be used. */
struct raw *raw_new(enum raw_suite suite);
void raw_free(struct raw *raw);
/* `count` texts of `length` octets, `stride` apart; `header` octets before each are the ESP header and IV, behind each
 * is room for the ICV. At most 128. */
void raw_seal(struct raw *raw, uint8_t *text, size_t stride, size_t header, size_t length, size_t count);
void raw_open(struct raw *raw, uint8_t *text, size_t stride, size_t header, size_t length, size_t count);

#endif
