#include "data/prepare.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <jansson.h>
#include "core/buf.h"
#include "data/shard.h"
#include "data/text_source.h"
#include "data/tokenizer.h"

enum { least_piece = 1 << 10, most_piece = 1 << 16, most_shards = 1000, train = 0, val = 1 };
static const char *const names[2] = {"train", "val"};

typedef struct preparation {
    const rb_prepare_options *o;
    rb_prepare_result *r;
    rb_tokenizer tok;
    rb_shard_writer *w[2];
    rb_ids ids;
    double share;
    int64_t shard_tokens, taken; /* bytes of text so far */
    size_t least;                /* bytes of the smallest piece */
    char beside[3800];           /* DIR/.partial */
} preparation;

static resbm_status next_shard(preparation *p, int part, rb_err *err) {
    char path[4096];
    if (p->r->shards[part] == most_shards)
        return rb_fail(err, RESBM_E_ARG, "more than %d %s shards of %lld tokens; raise the shard size",
                       most_shards, names[part], (long long)p->shard_tokens);
    snprintf(path, sizeof path, "%s/%s-%03d.bin", p->beside, names[part], p->r->shards[part]++);
    return rb_shard_create(path, rb_tokenizer_token_bytes(&p->tok), &p->w[part], err);
}

static resbm_status finish_shard(preparation *p, int part, rb_err *err) {
    rb_shard_writer *w = p->w[part];
    p->w[part] = NULL;
    return w ? rb_shard_finish(w, err) : RESBM_OK;
}

/* Writes n ids, filling each shard to the brim. */
static resbm_status put_ids(preparation *p, int part, const int32_t *ids, int64_t n, rb_err *err) {
    p->r->tokens[part] += n;
    while (n > 0) {
        if (!p->w[part]) RB_TRY(next_shard(p, part, err));
        int64_t room = p->shard_tokens - rb_shard_written(p->w[part]), k = n < room ? n : room;
        RB_TRY(rb_shard_write(p->w[part], ids, k, err));
        if (k == room) RB_TRY(finish_shard(p, part, err));
        ids += k;
        n -= k;
    }
    return RESBM_OK;
}

static resbm_status put_piece(preparation *p, const char *text, size_t n, bool first, rb_err *err) {
    p->taken += (int64_t)n;
    int part = (double)(p->r->bytes[val] + (int64_t)n) <= p->share * (double)p->taken ? val : train;
    int32_t mark = p->tok.bos >= 0 ? p->tok.bos : p->tok.eos;
    p->r->bytes[part] += (int64_t)n;
    p->ids.len = 0;
    if (first && mark >= 0) RB_TRY(rb_ids_add(&p->ids, mark, err));
    RB_TRY(rb_tokenizer_encode(&p->tok, text, n, &p->ids, err));
    return put_ids(p, part, p->ids.data, p->ids.len, err);
}

/* Bytes the next piece should have: an eighth of the validation part's due, so that the parts' shares come
 * out right soon and long texts are cut seldom. */
static size_t piece_size(const preparation *p) {
    double n = p->share * (double)p->taken / 8;
    return n < (double)p->least ? p->least : n > most_piece ? most_piece : (size_t)n;
}

/* A text of which all is in sight is cut finely enough to give validation something. */
static void set_least(preparation *p, size_t in_sight) {
    double n = p->share * (double)in_sight / 4;
    p->least = in_sight == most_piece || n > least_piece ? least_piece : n < 16 ? 16 : (size_t)n;
}

static resbm_status put_source(preparation *p, rb_text_source *s, char *buf, rb_err *err) {
    size_t have = 0;
    for (bool first = true, more = true; more || have; first = false) {
        size_t got = 0, room = most_piece - have;
        int64_t left = p->o->max_bytes ? p->o->max_bytes - p->taken - (int64_t)have : (int64_t)room;
        if (left < (int64_t)room) room = (size_t)left;
        if (more) RB_TRY(rb_text_read(s, buf + have, room, &got, err));
        have += got;
        more = more && room && got == room;
        if (!p->taken) set_least(p, have);
        if (!have) break;
        size_t piece = piece_size(p), cut = piece < have ? rb_text_cut(buf, piece) : have;
        RB_TRY(put_piece(p, buf, cut, first, err));
        have -= cut;
        memmove(buf, buf + cut, have);
    }
    return RESBM_OK;
}

static resbm_status put_files(preparation *p, rb_err *err) {
    char *buf = malloc(most_piece);
    if (!buf) return rb_fail(err, RESBM_E_MEMORY, "no memory to read texts");
    resbm_status st = RESBM_OK;
    for (int i = 0; i < p->o->count && !st && (!p->o->max_bytes || p->taken < p->o->max_bytes); i++) {
        rb_text_source *s = NULL;
        st = rb_text_open(p->o->inputs[i], p->o->raw, &s, err);
        if (!st) st = put_source(p, s, buf, err);
        rb_text_close(s);
    }
    free(buf);
    for (int part = 0; part < 2 && !st; part++) st = finish_shard(p, part, err);
    return st;
}

static void remove_matching(const char *folder, const char *pattern) {
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (!fnmatch(pattern, e->d_name, 0)) unlinkat(dirfd(d), e->d_name, 0);
    if (d) closedir(d);
}

static void remove_shards(const char *folder) {
    for (int part = 0; part < 2; part++) {
        char pattern[64];
        snprintf(pattern, sizeof pattern, "%s-[0-9][0-9][0-9].bin", names[part]);
        remove_matching(folder, pattern);
    }
}

static void remove_partial(const preparation *p) {
    remove_shards(p->beside);
    remove_matching(p->beside, "*.bin.tmp");
    rmdir(p->beside);
}

static resbm_status write_meta(const preparation *p, rb_err *err) {
    char path[4096];
    json_t *j = json_pack("{s:i, s:s, s:I, s:{s:I, s:I}, s:{s:I, s:I}}", "version", 1, "tokenizer",
                          p->o->tokenizer, "vocab", (json_int_t)p->tok.vocab, "train", "tokens",
                          (json_int_t)p->r->tokens[train], "bytes", (json_int_t)p->r->bytes[train], "val",
                          "tokens", (json_int_t)p->r->tokens[val], "bytes", (json_int_t)p->r->bytes[val]);
    char *text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;
    json_decref(j);
    if (!text)
        return rb_fail(err, RESBM_E_MEMORY,
                       "cannot write meta.json: no memory, or the tokenizer's path \"%s\" is no UTF-8",
                       p->o->tokenizer);
    snprintf(path, sizeof path, "%s/meta.json", p->o->out);
    resbm_status st = rb_write_file_atomic(path, text, strlen(text), err);
    free(text);
    return st;
}

double rb_data_bytes_per_token(const char *tokenizer, const char *val_pattern) {
    if (!strcmp(tokenizer, "bytes")) return 1;
    char path[4096];
    int n = (int)strcspn(val_pattern, ",");
    const char *slash = memrchr(val_pattern, '/', (size_t)n);
    snprintf(path, sizeof path, "%.*s/meta.json", slash ? (int)(slash - val_pattern) : 1,
             slash ? val_pattern : ".");
    json_t *j = json_load_file(path, 0, NULL), *v = json_object_get(j, names[val]);
    double tokens = json_number_value(json_object_get(v, "tokens"));
    double bytes = json_number_value(json_object_get(v, "bytes"));
    json_decref(j);
    return tokens > 0 && bytes > 0 ? bytes / tokens : NAN;
}

/* The whole new set in place of an older one. */
static resbm_status move_in(const preparation *p, rb_err *err) {
    char from[4096], to[4096];
    remove_matching(p->o->out, "meta.json");
    remove_shards(p->o->out);
    for (int part = 0; part < 2; part++)
        for (int i = 0; i < p->r->shards[part]; i++) {
            snprintf(from, sizeof from, "%s/%s-%03d.bin", p->beside, names[part], i);
            snprintf(to, sizeof to, "%s/%s-%03d.bin", p->o->out, names[part], i);
            if (rename(from, to)) return rb_fail_errno(err, errno, "cannot rename %s to %s", from, to);
        }
    return write_meta(p, err);
}

static resbm_status run(preparation *p, rb_err *err) {
    RB_TRY(rb_tokenizer_open(p->o->tokenizer, &p->tok, err));
    p->r->vocab = p->tok.vocab;
    RB_TRY(rb_make_dirs(p->beside, err));
    remove_shards(p->beside);
    RB_TRY(put_files(p, err));
    if (!p->r->tokens[train] || !p->r->tokens[val])
        return rb_fail(err, RESBM_E_CONFIG,
                       "%lld bytes of text are too few for a training and a validation part (share %g); give "
                       "more text or a "
                       "larger share",
                       (long long)p->taken, p->share);
    return move_in(p, err);
}

resbm_status rb_data_prepare(const rb_prepare_options *o, rb_prepare_result *out, rb_err *err) {
    *out = (rb_prepare_result){0};
    preparation p = {.o = o,
                     .r = out,
                     .share = o->val_share ? o->val_share : 0.02,
                     .shard_tokens = o->shard_tokens ? o->shard_tokens : 100000000};
    if (!(p.share > 0 && p.share <= 0.5))
        return rb_fail(err, RESBM_E_ARG, "validation share %g is not in (0, 0.5]", p.share);
    if (p.shard_tokens < 1 || p.shard_tokens > INT32_MAX)
        return rb_fail(err, RESBM_E_ARG, "%lld tokens per shard; it must be 1 to %d",
                       (long long)p.shard_tokens, INT32_MAX);
    if (o->max_bytes < 0)
        return rb_fail(err, RESBM_E_ARG, "at most %lld bytes of text", (long long)o->max_bytes);
    if (snprintf(p.beside, sizeof p.beside, "%s/.partial", o->out) >= (int)sizeof p.beside)
        return rb_fail(err, RESBM_E_ARG, "path too long: %s", o->out);
    resbm_status st = run(&p, err);
    for (int part = 0; part < 2; part++) rb_shard_abandon(p.w[part]);
    remove_partial(&p);
    rb_ids_free(&p.ids);
    rb_tokenizer_close(&p.tok);
    return st;
}
