#include "checkpoint/delta.h"

#include <math.h>
#include <stdlib.h>
#include <zlib.h>
#include "core/bytes.h"

enum { PLANES = 4, MAGIC = 0xd1, BASED = 1, WINDOW = 12, MEMORY = 8 };

struct rb_delta {
    uint8_t planes[2][RB_DELTA_PIECE]; /* without a base, with it */
    uint32_t count[4][256];            /* four tables: equal bytes in a row do not wait for each other */
    z_stream out, in;
    bool packs, unpacks; /* out, in are open */
};

rb_delta *rb_delta_new(void) {
    return calloc(1, sizeof(rb_delta));
}

void rb_delta_free(rb_delta *d) {
    if (!d) return;
    if (d->packs) deflateEnd(&d->out);
    if (d->unpacks) inflateEnd(&d->in);
    free(d);
}

/* Bytes of a plane of a piece of n. */
static size_t length_of(size_t n, size_t plane) {
    return (n + PLANES - 1 - plane) / PLANES;
}

static uint32_t rotated(uint32_t w) {
    return w << 1 | w >> 31;
}

static void set_planes(uint8_t *const plane[PLANES], size_t i, uint32_t w) {
    for (int p = 0; p < PLANES; p++) plane[p][i] = (uint8_t)(w >> 8 * p);
}

static void find_planes(uint8_t *all, size_t n, uint8_t *plane[PLANES]) {
    for (size_t p = 0, at = 0; p < PLANES; at += length_of(n, p++)) plane[p] = all + at;
}

static void split(const uint8_t *in, const uint8_t *base, size_t n, uint8_t *all) {
    uint8_t *plane[PLANES];
    size_t words = n / PLANES;
    find_planes(all, n, plane);
    for (size_t i = 0; i < words && !base; i++) set_planes(plane, i, rotated(rb_get32(in + PLANES * i)));
    for (size_t i = 0; i < words && base; i++) {
        uint32_t d = rotated(rb_get32(in + PLANES * i)) - rotated(rb_get32(base + PLANES * i));
        set_planes(plane, i, d << 1 ^ (d >> 31 ? UINT32_MAX : 0));
    }
    for (size_t i = PLANES * words; i < n; i++)
        plane[i % PLANES][words] = (uint8_t)(in[i] - (base ? base[i] : 0));
}

static void join(const uint8_t *all, const uint8_t *base, size_t n, uint8_t *out) {
    uint8_t *plane[PLANES];
    size_t words = n / PLANES;
    find_planes((uint8_t *)all, n, plane);
    for (size_t i = 0; i < words; i++) {
        uint32_t w = plane[0][i] | (uint32_t)plane[1][i] << 8 | (uint32_t)plane[2][i] << 16 |
                     (uint32_t)plane[3][i] << 24;
        if (base) w = (w >> 1 ^ (w & 1 ? UINT32_MAX : 0)) + rotated(rb_get32(base + PLANES * i));
        rb_put32(out + PLANES * i, w >> 1 | w << 31);
    }
    for (size_t i = PLANES * words; i < n; i++)
        out[i] = (uint8_t)(plane[i % PLANES][words] + (base ? base[i] : 0));
}

/* Bytes that a plane would take if each of its values took as many bits as it is rare. */
static double worth(rb_delta *d, const uint8_t *p, size_t n) {
    double bits = 0;
    memset(d->count, 0, sizeof d->count);
    for (size_t i = 0; i < n; i++) d->count[i % 4][p[i]]++;
    for (int v = 0; v < 256; v++) {
        double c = d->count[0][v] + d->count[1][v] + d->count[2][v] + d->count[3][v];
        if (c > 0) bits += c * log2((double)n / c);
    }
    return bits / 8;
}

/* 0: it takes no fewer bytes compressed. */
static size_t compress_plane(rb_delta *d, const uint8_t *in, size_t n, uint8_t *out) {
    if (!d->packs)
        d->packs = deflateInit2(&d->out, 1, Z_DEFLATED, -WINDOW, MEMORY, Z_RLE) == Z_OK;
    else
        deflateReset(&d->out);
    if (!d->packs || n < 2) return 0;
    d->out.next_in = (uint8_t *)in;
    d->out.avail_in = (uInt)n;
    d->out.next_out = out;
    d->out.avail_out = (uInt)n - 1;
    return deflate(&d->out, Z_FINISH) == Z_STREAM_END ? n - 1 - d->out.avail_out : 0;
}

size_t rb_delta_pack(rb_delta *d, const uint8_t *in, size_t n, const uint8_t *base, uint8_t *out) {
    double each[2][PLANES], all[2] = {0};
    for (int b = 0; b <= (base != NULL); b++) {
        split(in, b ? base : NULL, n, d->planes[b]);
        for (size_t p = 0, at = 0; p < PLANES; at += length_of(n, p++))
            all[b] += each[b][p] = worth(d, d->planes[b] + at, length_of(n, p));
    }
    int based = base && all[1] < all[0];
    const uint8_t *from = d->planes[based];
    size_t to = RB_DELTA_HEADER;
    out[0] = MAGIC;
    out[1] = based ? BASED : 0;
    out[2] = out[3] = 0;
    rb_put32(out + 4, (uint32_t)n);
    for (size_t p = 0; p < PLANES; p++) {
        size_t bytes = length_of(n, p), packed = 0;
        if (each[based][p] < 0.97 * (double)bytes) packed = compress_plane(d, from, bytes, out + to);
        if (packed)
            out[2] |= (uint8_t)(1 << p);
        else
            memcpy(out + to, from, packed = bytes);
        rb_put32(out + 8 + 4 * p, (uint32_t)packed);
        from += bytes;
        to += packed;
    }
    return to;
}

resbm_status rb_delta_look(const uint8_t *head, size_t len, size_t n, size_t *packed, bool *based,
                           rb_err *err) {
    if (len < RB_DELTA_HEADER || head[0] != MAGIC || head[1] > BASED || head[2] >= 1 << PLANES || head[3])
        return rb_fail(err, RESBM_E_CORRUPT, "what came is no packed piece of a file");
    if (rb_get32(head + 4) != n)
        return rb_fail(err, RESBM_E_CORRUPT, "a packed piece of %u bytes came where %zu were due",
                       rb_get32(head + 4), n);
    *packed = RB_DELTA_HEADER;
    *based = head[1] & BASED;
    for (size_t p = 0; p < PLANES; p++) {
        size_t bytes = rb_get32(head + 8 + 4 * p), whole = length_of(n, p);
        bool fits = head[2] >> p & 1 ? bytes && bytes < whole : bytes == whole;
        if (!fits)
            return rb_fail(err, RESBM_E_CORRUPT,
                           "plane %zu of a packed piece has %zu bytes, which cannot be of %zu", p, bytes,
                           whole);
        *packed += bytes;
    }
    return RESBM_OK;
}

size_t rb_delta_bytes(const uint8_t *head, size_t len) {
    size_t n = len < RB_DELTA_HEADER ? 0 : rb_get32(head + 4);
    return n <= RB_DELTA_PIECE ? n : 0;
}

static resbm_status inflate_plane(rb_delta *d, const uint8_t *in, size_t n, uint8_t *out, size_t whole,
                                  rb_err *err) {
    if (!d->unpacks)
        d->unpacks = inflateInit2(&d->in, -WINDOW) == Z_OK;
    else
        inflateReset(&d->in);
    if (!d->unpacks) return rb_fail(err, RESBM_E_MEMORY, "no memory to unpack a piece of a file");
    d->in.next_in = (uint8_t *)in;
    d->in.avail_in = (uInt)n;
    d->in.next_out = out;
    d->in.avail_out = (uInt)whole;
    if (inflate(&d->in, Z_FINISH) == Z_STREAM_END && !d->in.avail_in && !d->in.avail_out) return RESBM_OK;
    return rb_fail(err, RESBM_E_CORRUPT,
                   "%zu bytes of a packed piece do not unpack to the %zu they stand for", n, whole);
}

resbm_status rb_delta_unpack(rb_delta *d, const uint8_t *packed, size_t len, const uint8_t *base,
                             uint8_t *out, size_t n, rb_err *err) {
    size_t due;
    bool based;
    if (!n || n > RB_DELTA_PIECE)
        return rb_fail(err, RESBM_E_ARG, "a packed piece holds 1 to %d bytes, not %zu", RB_DELTA_PIECE, n);
    RB_TRY(rb_delta_look(packed, len, n, &due, &based, err));
    if (len != due) return rb_fail(err, RESBM_E_CORRUPT, "a packed piece of %zu bytes came as %zu", due, len);
    if (based && !base)
        return rb_fail(err, RESBM_E_CORRUPT, "a piece is packed against a file that is not here");
    const uint8_t *from = packed + RB_DELTA_HEADER;
    uint8_t *to = d->planes[0];
    for (size_t p = 0; p < PLANES; p++) {
        size_t bytes = rb_get32(packed + 8 + 4 * p), whole = length_of(n, p);
        if (packed[2] >> p & 1)
            RB_TRY(inflate_plane(d, from, bytes, to, whole, err));
        else
            memcpy(to, from, bytes);
        from += bytes;
        to += whole;
    }
    join(d->planes[0], based ? base : NULL, n, out);
    return RESBM_OK;
}
