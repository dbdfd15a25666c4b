/* NKeys (Ed25519, written in base32 with a prefix and a checksum) and the server's certificate. */
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "module.h"

/* First byte of what base32 shows as S (seed), U (user). */
enum { PREFIX_SEED = 18 << 3, PREFIX_USER = 20 << 3 };

static uint16_t crc16(const uint8_t *p, size_t n) {
    uint16_t c = 0;
    for (; n; n--, p++) {
        c ^= (uint16_t)(*p << 8);
        for (int i = 0; i < 8; i++) c = (uint16_t)(c & 0x8000 ? c << 1 ^ 0x1021 : c << 1);
    }
    return c;
}

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

static void base32(const uint8_t *p, size_t n, char *out) {
    uint32_t bits = 0;
    int have = 0;
    for (; n; n--) {
        bits = bits << 8 | *p++;
        for (have += 8; have >= 5; have -= 5) *out++ = alphabet[bits >> (have - 5) & 31];
    }
    if (have) *out++ = alphabet[bits << (5 - have) & 31];
    *out = 0;
}

static bool unbase32(const char *s, uint8_t *out, size_t n) {
    uint32_t bits = 0;
    int have = 0;
    size_t got = 0;
    for (; *s; s++) {
        const char *at = strchr(alphabet, *s);
        if (!at) return false;
        bits = bits << 5 | (uint32_t)(at - alphabet);
        if ((have += 5) < 8) continue;
        if (got == n) return false;
        out[got++] = (uint8_t)(bits >> (have -= 8));
    }
    return got == n;
}

static void write_key(uint8_t *raw, size_t n, char out[RB_NKEY_TEXT]) {
    uint16_t c = crc16(raw, n);
    raw[n] = (uint8_t)c;
    raw[n + 1] = (uint8_t)(c >> 8);
    base32(raw, n + 2, out);
}

static bool public_of(const uint8_t secret[32], char out[RB_NKEY_TEXT]) {
    uint8_t raw[35] = {PREFIX_USER};
    size_t n = 32;
    EVP_PKEY *k = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, secret, 32);
    bool ok = k && EVP_PKEY_get_raw_public_key(k, raw + 1, &n) == 1;
    EVP_PKEY_free(k);
    if (ok) write_key(raw, 33, out);
    return ok;
}

/* libnats 3.4 takes about one good seed in 2000 for an invalid one. */
static bool usable(const char *seed) {
    unsigned char *signature = NULL;
    int n = 0;
    bool ok = nats_Sign(seed, "nonce", &signature, &n) == NATS_OK;
    free(signature);
    return ok;
}

static bool draw_key(char seed[RB_NKEY_TEXT], char public_key[RB_NKEY_TEXT]) {
    uint8_t raw[36];
    raw[0] = PREFIX_SEED | PREFIX_USER >> 5;
    raw[1] = (PREFIX_USER & 31) << 3;
    bool ok = RAND_priv_bytes(raw + 2, 32) == 1 && public_of(raw + 2, public_key);
    if (ok) write_key(raw, 34, seed);
    OPENSSL_cleanse(raw, sizeof raw);
    return ok;
}

resbm_status rb_nats_make_key(char seed[RB_NKEY_TEXT], char public_key[RB_NKEY_TEXT], rb_err *err) {
    for (int i = 0; i < 100; i++) {
        if (!draw_key(seed, public_key)) break;
        if (usable(seed)) return RESBM_OK;
    }
    return rb_fail(err, RESBM_E_IO, "libcrypto could not make a key");
}

resbm_status rb_nats_public_key(const char *seed, char public_key[RB_NKEY_TEXT], rb_err *err) {
    uint8_t raw[36];
    bool ok = unbase32(seed, raw, sizeof raw) && crc16(raw, 34) == (raw[34] | raw[35] << 8) &&
              raw[0] == (PREFIX_SEED | PREFIX_USER >> 5) && public_of(raw + 2, public_key);
    OPENSSL_cleanse(raw, sizeof raw);
    return ok ? RESBM_OK : rb_fail(err, RESBM_E_ARG, "this is not the seed of a user's NKey");
}

static bool add_extension(X509 *x, int nid, const char *value) {
    X509V3_CTX ctx;
    X509V3_set_ctx(&ctx, x, x, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    bool ok = e && X509_add_ext(x, e, -1);
    X509_EXTENSION_free(e);
    return ok;
}

/* Is it an address rather than a name? */
static bool numeric(const char *host) {
    return strspn(host, "0123456789.") == strlen(host) || strchr(host, ':');
}

static bool fill(X509 *x, EVP_PKEY *key, const char *host) {
    char names[400];
    uint8_t serial[8];
    X509_NAME *n = X509_get_subject_name(x);
    snprintf(names, sizeof names, "%s:%s,DNS:localhost,IP:127.0.0.1", numeric(host) ? "IP" : "DNS", host);
    if (RAND_bytes(serial, sizeof serial) != 1) return false;
    serial[0] &= 0x7f;
    ASN1_INTEGER *s = ASN1_INTEGER_new();
    BIGNUM *b = BN_bin2bn(serial, sizeof serial, NULL);
    bool ok = s && b && BN_to_ASN1_INTEGER(b, s) && X509_set_serialNumber(x, s) && X509_set_version(x, 2);
    BN_free(b);
    ASN1_INTEGER_free(s);
    /* A day of grace for clocks that are behind. */
    ok = ok && X509_gmtime_adj(X509_getm_notBefore(x), -86400L) &&
         X509_gmtime_adj(X509_getm_notAfter(x), 86400L * 3650);
    ok = ok &&
         X509_NAME_add_entry_by_txt(n, "CN", MBSTRING_ASC, (const unsigned char *)"resbm host", -1, -1, 0);
    ok = ok && X509_set_issuer_name(x, n) && X509_set_pubkey(x, key);
    ok = ok && add_extension(x, NID_basic_constraints, "critical,CA:TRUE") &&
         add_extension(x, NID_subject_alt_name, names);
    return ok && X509_sign(x, key, EVP_sha256());
}

static bool print(BIO *b, rb_buf *out) {
    char *p;
    long n = BIO_get_mem_data(b, &p);
    if (n > 0) rb_buf_add(out, p, (size_t)n);
    return n > 0 && !out->failed;
}

resbm_status rb_nats_make_certificate(const char *host, rb_buf *certificate, rb_buf *private_key,
                                      rb_err *err) {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = X509_new();
    BIO *c = BIO_new(BIO_s_mem()), *k = BIO_new(BIO_s_secmem());
    bool ok = key && x && c && k && fill(x, key, host) && PEM_write_bio_X509(c, x) && print(c, certificate) &&
              PEM_write_bio_PrivateKey(k, key, NULL, NULL, 0, NULL, NULL) && print(k, private_key);
    BIO_free(c);
    BIO_free(k);
    X509_free(x);
    EVP_PKEY_free(key);
    return ok ? RESBM_OK : rb_fail(err, RESBM_E_IO, "libcrypto could not make a certificate for %s", host);
}
