#include "raw.h"

#ifdef HAVE_IPSECMB

#define NO_COMPAT_IMB_API_053
#include <intel-ipsec-mb.h>
#include <stdlib.h>
#include <string.h>

#define BURST_MAX  128
#define ICV_OCTETS 16

struct raw {
  struct gcm_key_data gcm;
  struct gcm_context_data context;
  uint8_t encrypt_schedule[16 * 15] __attribute__((aligned(16)));
  uint8_t decrypt_schedule[16 * 15] __attribute__((aligned(16)));
  uint8_t inner[32], outer[32];
  IMB_JOB jobs[BURST_MAX];
  IMB_MGR *manager;
  enum raw_suite suite;
};

static const uint8_t key_octets[32] = {1, 2, 3, 4, 5, 6, 7, 8, 9};

static void expand_hmac(struct raw *raw) {
  uint8_t block[64];
  for (size_t i = 0; i < sizeof block; i++)
    block[i] = (uint8_t)(0x36 ^ (i < sizeof key_octets ? key_octets[i] : 0));
  IMB_SHA256_ONE_BLOCK(raw->manager, block, raw->inner);
  for (size_t i = 0; i < sizeof block; i++)
    block[i] ^= 0x36 ^ 0x5c;
  IMB_SHA256_ONE_BLOCK(raw->manager, block, raw->outer);
}

struct raw *raw_new(enum raw_suite suite) {
  struct raw *raw = aligned_alloc(64, (sizeof *raw + 63) / 64 * 64);
  if (!raw) return NULL;
  memset(raw, 0, sizeof *raw);
  IMB_ARCH arch = IMB_ARCH_NONE;
  raw->suite = suite;
  raw->manager = alloc_mb_mgr(0);
  if (raw->manager) init_mb_mgr_auto(raw->manager, &arch);
  if (!raw->manager || imb_get_errno(raw->manager) != 0) {
    raw_free(raw);
    return NULL;
  }
  if (suite == RAW_GCM_128) IMB_AES128_GCM_PRE(raw->manager, key_octets, &raw->gcm);
  if (suite == RAW_GCM_256) IMB_AES256_GCM_PRE(raw->manager, key_octets, &raw->gcm);
  if (suite == RAW_CBC_256_SHA256) {
    IMB_AES_KEYEXP_256(raw->manager, key_octets, raw->encrypt_schedule, raw->decrypt_schedule);
    expand_hmac(raw);
  }
  return raw;
}

void raw_free(struct raw *raw) {
  if (!raw) return;
  if (raw->manager) free_mb_mgr(raw->manager);
  free(raw);
}

static void gcm(struct raw *raw, bool seal, uint8_t *text, size_t stride, size_t header, size_t length, size_t count) {
  static const uint8_t nonce[12] = {1, 2, 3};
  uint8_t tag[ICV_OCTETS];
  for (size_t i = 0; i < count; i++, text += stride) {
    const uint8_t *aad = text - header;
    uint8_t *icv = seal ? text + length : tag;
    if (raw->suite == RAW_GCM_128 && seal)
      IMB_AES128_GCM_ENC(raw->manager, &raw->gcm, &raw->context, text, text, length, nonce, aad, 8, icv, ICV_OCTETS);
    else if (raw->suite == RAW_GCM_128)
      IMB_AES128_GCM_DEC(raw->manager, &raw->gcm, &raw->context, text, text, length, nonce, aad, 8, icv, ICV_OCTETS);
    else if (seal)
      IMB_AES256_GCM_ENC(raw->manager, &raw->gcm, &raw->context, text, text, length, nonce, aad, 8, icv, ICV_OCTETS);
    else
      IMB_AES256_GCM_DEC(raw->manager, &raw->gcm, &raw->context, text, text, length, nonce, aad, 8, icv, ICV_OCTETS);
  }
}

/* The cipher's and the hash's fields, which both ways share. The hash covers header and text. */
static void fill(struct raw *raw, IMB_JOB *job, uint8_t *text, size_t header, size_t length) {
  job->enc_keys = raw->encrypt_schedule;
  job->dec_keys = raw->decrypt_schedule;
  job->key_len_in_bytes = 32;
  job->src = text - header;
  job->dst = text;
  job->cipher_start_src_offset_in_bytes = header;
  job->msg_len_to_cipher_in_bytes = length;
  job->iv = text - 16;
  job->iv_len_in_bytes = 16;
  job->hash_start_src_offset_in_bytes = 0;
  job->msg_len_to_hash_in_bytes = header + length;
  job->auth_tag_output = text + length;
  job->auth_tag_output_len_in_bytes = ICV_OCTETS;
  job->u.HMAC._hashed_auth_key_xor_ipad = raw->inner;
  job->u.HMAC._hashed_auth_key_xor_opad = raw->outer;
  job->status = IMB_STATUS_BEING_PROCESSED;
}

static void cbc_seal(struct raw *raw, uint8_t *text, size_t stride, size_t header, size_t length, size_t count) {
  for (size_t i = 0; i < count; i++) {
    IMB_JOB *job = IMB_GET_NEXT_JOB(raw->manager);
    fill(raw, job, text + i * stride, header, length);
    job->cipher_mode = IMB_CIPHER_CBC;
    job->cipher_direction = IMB_DIR_ENCRYPT;
    job->chain_order = IMB_ORDER_CIPHER_HASH;
    job->hash_alg = IMB_AUTH_HMAC_SHA_256;
    IMB_SUBMIT_JOB_NOCHECK(raw->manager);
  }
  while (IMB_FLUSH_JOB(raw->manager))
    continue;
}

static void cbc_open(struct raw *raw, uint8_t *text, size_t stride, size_t header, size_t length, size_t count) {
  for (size_t i = 0; i < count; i++)
    fill(raw, &raw->jobs[i], text + i * stride, header, length);
  IMB_SUBMIT_HASH_BURST_NOCHECK(raw->manager, raw->jobs, (uint32_t)count, IMB_AUTH_HMAC_SHA_256);
  IMB_SUBMIT_CIPHER_BURST_NOCHECK(raw->manager, raw->jobs, (uint32_t)count, IMB_CIPHER_CBC, IMB_DIR_DECRYPT,
                                  IMB_KEY_256_BYTES);
}

void raw_seal(struct raw *raw, uint8_t *text, size_t stride, size_t header, size_t length, size_t count) {
  if (raw->suite == RAW_CBC_256_SHA256)
    cbc_seal(raw, text, stride, header, length, count);
  else
    gcm(raw, true, text, stride, header, length, count);
}

void raw_open(struct raw *raw, uint8_t *text, size_t stride, size_t header, size_t length, size_t count) {
  if (raw->suite == RAW_CBC_256_SHA256)
    cbc_open(raw, text, stride, header, length, count);
  else
    gcm(raw, false, text, stride, header, length, count);
}

#else

struct raw *raw_new(enum raw_suite suite) {
  (void)suite;
  return NULL;
}
void raw_free(struct raw *raw) {
  (void)raw;
}
void raw_seal(struct raw *raw, uint8_t *text, size_t stride, size_t header, size_t length, size_t count) {
  (void)raw, (void)text, (void)stride, (void)header, (void)length, (void)count;
}
void raw_open(struct raw *raw, uint8_t *text, size_t stride, size_t header, size_t length, size_t count) {
  (void)raw, (void)text, (void)stride, (void)header, (void)length, (void)count;
}

#endif
