#include "data/bpe.h"

#include <stdlib.h>
#include <string.h>
#include "core/buf.h"
#include "core/hash.h"
#include "core/rng.h"

enum { cache_slots = 1 << 14, cache_word = 23, cache_ids = 8 };

typedef struct merge {
    int32_t left, right, joined, rank; /* left < 0: free */
} merge;

typedef struct symbol {
    int32_t id, prev, next; /* places in the word; id < 0: joined into its left neighbour */
} symbol;

typedef struct candidate {
    int32_t rank, at, left, right;
} candidate;

typedef struct cached {
    uint8_t len, count; /* len 0: free */
    char word[cache_word];
    int32_t ids[cache_ids];
} cached;

struct rb_bpe {
    int64_t vocab;
    rb_buf bytes; /* of all ids, one after the other */
    struct {
        size_t at, len;
    } * token;      /* (vocab) */
    int32_t *whole; /* open table over tokens' bytes, NULL without ignore_merges */
    merge *merges;  /* open table */
    size_t whole_mask, merge_mask;
    int32_t ranks, byte[256];
    cached *cache;
    symbol *symbol; /* scratch of one word */
    candidate *heap;
    size_t scratch, queued;
};

static size_t table_size(int64_t entries) {
    size_t n = 16;
    while (n < 2 * (size_t)entries) n *= 2;
    return n;
}

resbm_status rb_bpe_new(int64_t vocab, int64_t merges, rb_bpe **out, rb_err *err) {
    size_t slots = table_size(merges);
    rb_bpe *b = calloc(1, sizeof *b);
    *out = b;
    if (b) {
        b->vocab = vocab;
        b->merge_mask = slots - 1;
        b->token = calloc((size_t)vocab + 1, sizeof *b->token);
        b->merges = malloc(slots * sizeof *b->merges);
        b->cache = calloc(cache_slots, sizeof *b->cache);
    }
    if (!b || !b->token || !b->merges || !b->cache) {
        rb_bpe_free(b);
        *out = NULL;
        return rb_fail(err, RESBM_E_MEMORY, "no memory for a vocabulary of %lld tokens and %lld merges",
                       (long long)vocab, (long long)merges);
    }
    for (size_t i = 0; i < slots; i++) b->merges[i].left = -1;
    for (int i = 0; i < 256; i++) b->byte[i] = -1;
    return RESBM_OK;
}

void rb_bpe_free(rb_bpe *b) {
    if (!b) return;
    rb_buf_free(&b->bytes);
    free(b->token);
    free(b->whole);
    free(b->merges);
    free(b->cache);
    free(b->symbol);
    free(b->heap);
    free(b);
}

resbm_status rb_bpe_set(rb_bpe *b, int32_t id, const void *bytes, size_t n, rb_err *err) {
    if (b->token[id].len) return rb_fail(err, RESBM_E_FORMAT, "token id %d is given to two tokens", id);
    b->token[id].at = b->bytes.len;
    b->token[id].len = n;
    rb_buf_add(&b->bytes, bytes, n);
    if (n == 1) b->byte[*(const uint8_t *)bytes] = id;
    return rb_buf_status(&b->bytes, err);
}

const char *rb_bpe_bytes(const rb_bpe *b, int32_t id, size_t *n) {
    *n = b->token[id].len;
    return *n ? b->bytes.data + b->token[id].at : NULL;
}

static merge *find_merge(const rb_bpe *b, int32_t left, int32_t right) {
    size_t i = rb_mix64((uint32_t)left, (uint32_t)right) & b->merge_mask;
    for (;; i = (i + 1) & b->merge_mask) {
        merge *m = &b->merges[i];
        if (m->left < 0 || (m->left == left && m->right == right)) return m;
    }
}

void rb_bpe_merge(rb_bpe *b, int32_t left, int32_t right, int32_t joined) {
    *find_merge(b, left, right) = (merge){left, right, joined, b->ranks++};
}

/* The slot of a whole word: its id, or -1 where it would go. */
static int32_t *find_whole(const rb_bpe *b, const char *word, size_t n) {
    size_t i = rb_hash64(word, n) & b->whole_mask;
    for (;; i = (i + 1) & b->whole_mask) {
        int32_t id = b->whole[i];
        if (id < 0) return &b->whole[i];
        if (b->token[id].len == n && !memcmp(b->bytes.data + b->token[id].at, word, n)) return &b->whole[i];
    }
}

static resbm_status index_whole(rb_bpe *b, rb_err *err) {
    size_t slots = table_size(b->vocab);
    b->whole_mask = slots - 1;
    b->whole = malloc(slots * sizeof *b->whole);
    if (!b->whole)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for a vocabulary of %lld tokens", (long long)b->vocab);
    for (size_t i = 0; i < slots; i++) b->whole[i] = -1;
    for (int32_t id = 0; id < b->vocab; id++)
        if (b->token[id].len) *find_whole(b, b->bytes.data + b->token[id].at, b->token[id].len) = id;
    return RESBM_OK;
}

resbm_status rb_bpe_ready(rb_bpe *b, bool ignore_merges, rb_err *err) {
    for (int i = 0; i < 256; i++)
        if (b->byte[i] < 0)
            return rb_fail(err, RESBM_E_FORMAT,
                           "byte 0x%02x has no token, so not every text can be encoded; it is no "
                           "complete byte-level vocabulary",
                           i);
    return ignore_merges ? index_whole(b, err) : RESBM_OK;
}

static bool before(candidate a, candidate b) {
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

/* Puts the pair that starts at place `at` into the heap if it can be joined. */
static void push(rb_bpe *b, int32_t at) {
    int32_t next = at < 0 ? -1 : b->symbol[at].next;
    if (next < 0) return;
    candidate c = {0, at, b->symbol[at].id, b->symbol[next].id};
    const merge *m = find_merge(b, c.left, c.right);
    if (m->left < 0) return;
    c.rank = m->rank;
    size_t i = b->queued++;
    for (size_t up; i && before(c, b->heap[up = (i - 1) / 2]); i = up) b->heap[i] = b->heap[up];
    b->heap[i] = c;
}

static candidate pop(rb_bpe *b) {
    candidate top = b->heap[0], last = b->heap[--b->queued];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < b->queued; i = child) {
        if (child + 1 < b->queued && before(b->heap[child + 1], b->heap[child])) child++;
        if (!before(b->heap[child], last)) break;
        b->heap[i] = b->heap[child];
    }
    b->heap[i] = last;
    return top;
}

/* Scratch for n symbols: n - 1 pairs at first and at most two more for each of the n - 1 merges. */
static resbm_status reserve(rb_bpe *b, size_t n, rb_err *err) {
    if (n <= b->scratch) return RESBM_OK;
    if (n > INT32_MAX / 4)
        return rb_fail(err, RESBM_E_ARG, "a word of %zu bytes without a blank is too long", n);
    size_t want = b->scratch ? b->scratch : 64;
    while (want < n) want *= 2;
    free(b->symbol);
    free(b->heap);
    b->symbol = malloc(want * sizeof *b->symbol);
    b->heap = malloc(3 * want * sizeof *b->heap);
    b->scratch = b->symbol && b->heap ? want : 0;
    return b->scratch ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for a word of %zu bytes", n);
}

static void join(rb_bpe *b, candidate c) {
    symbol *left = &b->symbol[c.at];
    int32_t gone = left->next;
    if (left->id != c.left || gone < 0 || b->symbol[gone].id != c.right)
        return; /* one of the two is no more */
    left->id = find_merge(b, c.left, c.right)->joined;
    left->next = b->symbol[gone].next;
    b->symbol[gone].id = -1;
    if (left->next >= 0) b->symbol[left->next].prev = c.at;
    push(b, left->prev);
    push(b, c.at);
}

static resbm_status merge_word(rb_bpe *b, const char *word, size_t n, rb_ids *out, rb_err *err) {
    RB_TRY(reserve(b, n, err));
    for (size_t i = 0; i < n; i++)
        b->symbol[i] = (symbol){b->byte[(uint8_t)word[i]], (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1};
    b->queued = 0;
    for (size_t i = 0; i + 1 < n; i++) push(b, (int32_t)i);
    while (b->queued) join(b, pop(b));
    for (int32_t i = 0; i >= 0; i = b->symbol[i].next) RB_TRY(rb_ids_add(out, b->symbol[i].id, err));
    return RESBM_OK;
}

static resbm_status copy_cached(const cached *c, rb_ids *out, rb_err *err) {
    for (int i = 0; i < c->count; i++) RB_TRY(rb_ids_add(out, c->ids[i], err));
    return RESBM_OK;
}

resbm_status rb_bpe_word(rb_bpe *b, const char *word, size_t n, rb_ids *out, rb_err *err) {
    if (n == 1) return rb_ids_add(out, b->byte[(uint8_t)*word], err);
    cached *c = n <= cache_word ? &b->cache[rb_hash64(word, n) & (cache_slots - 1)] : NULL;
    if (c && c->len == n && !memcmp(c->word, word, n)) return copy_cached(c, out, err);
    int64_t from = out->len;
    int32_t id = b->whole ? *find_whole(b, word, n) : -1;
    RB_TRY(id >= 0 ? rb_ids_add(out, id, err) : merge_word(b, word, n, out, err));
    if (!c || out->len - from > cache_ids) return RESBM_OK;
    c->len = (uint8_t)n;
    c->count = (uint8_t)(out->len - from);
    memcpy(c->word, word, n);
    memcpy(c->ids, out->data + from, c->count * sizeof *c->ids);
    return RESBM_OK;
}
