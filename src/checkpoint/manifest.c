#include "checkpoint/manifest.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/hash.h"

static const char format_name[] = "resbm checkpoint";

bool rb_part_name_ok(const char *name) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strlen(name);
    return n > 0 && n < RB_PART_NAME && *name != '.' && strspn(name, allowed) == n;
}

static rb_counter *find_counter(const rb_manifest *m, const char *name) {
    for (int i = 0; i < m->counter_count; i++)
        if (!strcmp(m->counters[i].name, name)) return (rb_counter *)&m->counters[i];
    return NULL;
}

resbm_status rb_manifest_set(rb_manifest *m, const char *name, int64_t value, rb_err *err) {
    rb_counter *c = find_counter(m, name);
    if (!c) {
        if (m->counter_count == RB_MANIFEST_COUNTERS || strlen(name) >= sizeof c->name || !*name)
            return rb_fail(err, RESBM_E_ARG,
                           "counter '%.60s': empty or too long a name, or more than %d counters", name,
                           RB_MANIFEST_COUNTERS);
        c = &m->counters[m->counter_count++];
        snprintf(c->name, sizeof c->name, "%s", name);
    }
    c->value = value;
    return RESBM_OK;
}

bool rb_manifest_holds(const rb_manifest *m, const char *name) {
    for (int i = 0; i < m->file_count; i++)
        if (!strcmp(m->files[i].name, name)) return true;
    return false;
}

int64_t rb_manifest_get(const rb_manifest *m, const char *name) {
    const rb_counter *c = find_counter(m, name);
    return c ? c->value : 0;
}

/* Hash of the object as it is without its own hash. */
static resbm_status hash_of(json_t *body, char out[33], rb_err *err) {
    char *text = json_dumps(body, JSON_COMPACT | JSON_SORT_KEYS);
    if (!text) return rb_fail(err, RESBM_E_MEMORY, "no memory for a manifest");
    rb_hash128_hex(text, strlen(text), out);
    free(text);
    return RESBM_OK;
}

/* ---- writing */

static json_t *files_json(const rb_manifest *m) {
    json_t *files = json_array();
    for (int i = 0; files && i < m->file_count; i++)
        json_array_append_new(files,
                              json_pack("{s:s, s:I, s:s}", "name", m->files[i].name, "bytes",
                                        (json_int_t)m->files[i].sum.bytes, "hash", m->files[i].sum.hash));
    return files;
}

static json_t *counters_json(const rb_manifest *m) {
    json_t *counters = json_object();
    for (int i = 0; counters && i < m->counter_count; i++)
        json_object_set_new(counters, m->counters[i].name, json_integer(m->counters[i].value));
    return counters;
}

static json_t *body_json(const rb_manifest *m) {
    return json_pack("{s:s, s:i, s:I, s:I, s:I, s:I, s:s, s:o, s:o}", "format", format_name, "version",
                     RB_MANIFEST_VERSION, "step", (json_int_t)m->step, "epoch", (json_int_t)m->epoch,
                     "cursor", (json_int_t)m->cursor, "seed", (json_int_t)m->seed, "config", m->config,
                     "counters", counters_json(m), "files", files_json(m));
}

static resbm_status check_files(const rb_manifest *m, rb_err *err) {
    for (int i = 0; i < m->file_count; i++) {
        if (!rb_part_name_ok(m->files[i].name) || strlen(m->files[i].sum.hash) != 32)
            return rb_fail(err, RESBM_E_ARG, "manifest: file %d has the name '%.64s' or no hash", i,
                           m->files[i].name);
        for (int j = 0; j < i; j++)
            if (!strcmp(m->files[i].name, m->files[j].name))
                return rb_fail(err, RESBM_E_ARG, "manifest: %s was written twice", m->files[i].name);
    }
    return RESBM_OK;
}

resbm_status rb_manifest_print(const rb_manifest *m, rb_buf *out, rb_err *err) {
    char hash[33];
    RB_TRY(check_files(m, err));
    json_t *body = body_json(m);
    if (!body) return rb_fail(err, RESBM_E_ARG, "manifest: no memory, or a text in it is no UTF-8");
    resbm_status st = hash_of(body, hash, err);
    char *text = NULL;
    if (st == RESBM_OK && !json_object_set_new(body, "hash", json_string(hash)))
        text = json_dumps(body, JSON_INDENT(1));
    if (st == RESBM_OK && !text) st = rb_fail(err, RESBM_E_MEMORY, "no memory for a manifest");
    if (text) rb_buf_printf(out, "%s\n", text);
    free(text);
    json_decref(body);
    return st == RESBM_OK ? rb_buf_status(out, err) : st;
}

/* ---- reading */

typedef struct reader {
    const char *name;
    json_t *body;
    rb_manifest *m;
    rb_err *err;
} reader;

static resbm_status bad(reader *r, const char *key, const char *what) {
    return rb_fail(r->err, RESBM_E_FORMAT, "%s: %.60s %s", r->name, key, what);
}

static resbm_status get_count(reader *r, const json_t *from, const char *key, int64_t *out) {
    const json_t *v = json_object_get(from, key);
    if (!json_is_integer(v) || json_integer_value(v) < 0) return bad(r, key, "is missing or no count");
    *out = (int64_t)json_integer_value(v);
    return RESBM_OK;
}

/* 32 lower-case hexadecimal digits. */
static bool is_hash(const json_t *v) {
    const char *s = json_string_value(v);
    return s && strlen(s) == 32 && strspn(s, "0123456789abcdef") == 32;
}

static resbm_status check_hash(reader *r) {
    char is[33];
    json_t *hash = json_object_get(r->body, "hash");
    if (!is_hash(hash)) return bad(r, "hash", "is missing or not 32 hexadecimal digits");
    json_incref(hash);
    json_object_del(r->body, "hash");
    resbm_status st = hash_of(r->body, is, r->err);
    if (st == RESBM_OK && strcmp(is, json_string_value(hash)))
        st = rb_fail(r->err, RESBM_E_CORRUPT,
                     "%s: its content does not fit its hash: it was damaged or edited", r->name);
    json_decref(hash);
    return st;
}

static resbm_status read_head(reader *r) {
    int64_t version = 0;
    const char *format = json_string_value(json_object_get(r->body, "format"));
    if (!format || strcmp(format, format_name)) return bad(r, "format", "is not 'resbm checkpoint'");
    RB_TRY(get_count(r, r->body, "version", &version));
    if (version != RB_MANIFEST_VERSION)
        return rb_fail(r->err, RESBM_E_FORMAT, "%s: version %lld, this program reads %d", r->name,
                       (long long)version, RB_MANIFEST_VERSION);
    RB_TRY(check_hash(r));
    RB_TRY(get_count(r, r->body, "step", &r->m->step));
    RB_TRY(get_count(r, r->body, "epoch", &r->m->epoch));
    RB_TRY(get_count(r, r->body, "cursor", &r->m->cursor));
    RB_TRY(get_count(r, r->body, "seed", &r->m->seed));
    r->m->config = json_string_value(json_object_get(r->body, "config"));
    return r->m->config ? RESBM_OK : bad(r, "config", "is missing or no text");
}

static resbm_status read_counters(reader *r) {
    const char *name;
    json_t *v, *counters = json_object_get(r->body, "counters");
    if (!json_is_object(counters)) return bad(r, "counters", "is missing or no object");
    json_object_foreach(counters, name, v) {
        if (!json_is_integer(v)) return bad(r, name, "is no whole number");
        if (rb_manifest_set(r->m, name, (int64_t)json_integer_value(v), r->err) != RESBM_OK)
            return bad(r, "counters", "are too many, or a name is too long");
    }
    return RESBM_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const rb_part_file *)a)->name, ((const rb_part_file *)b)->name);
}

static resbm_status read_file_row(reader *r, const json_t *row, rb_part_file *out) {
    const char *name = json_string_value(json_object_get(row, "name"));
    const json_t *hash = json_object_get(row, "hash");
    int64_t bytes = 0;
    if (!name || !rb_part_name_ok(name)) return bad(r, "files", "has a name that no part may have");
    RB_TRY(get_count(r, row, "bytes", &bytes));
    if (!is_hash(hash)) return bad(r, name, "has no hash of 32 hexadecimal digits");
    snprintf(out->name, sizeof out->name, "%s", name);
    memcpy(out->sum.hash, json_string_value(hash), 33);
    out->sum.bytes = (uint64_t)bytes;
    return RESBM_OK;
}

static resbm_status read_files(reader *r) {
    json_t *files = json_object_get(r->body, "files");
    size_t n = json_array_size(files);
    if (!json_is_array(files) || n > RB_MANIFEST_FILES)
        return bad(r, "files", "is missing, no list or too long");
    r->m->files = calloc(n + 1, sizeof *r->m->files);
    if (!r->m->files) return rb_fail(r->err, RESBM_E_MEMORY, "no memory to read %s", r->name);
    for (size_t i = 0; i < n; i++) {
        RB_TRY(read_file_row(r, json_array_get(files, i), &r->m->files[i]));
        r->m->file_count++;
    }
    qsort(r->m->files, n, sizeof *r->m->files, by_name);
    for (size_t i = 1; i < n; i++)
        if (!strcmp(r->m->files[i].name, r->m->files[i - 1].name))
            return bad(r, r->m->files[i].name, "is listed twice");
    return RESBM_OK;
}

resbm_status rb_manifest_parse(const char *text, size_t len, const char *name, rb_manifest *out,
                               rb_err *err) {
    memset(out, 0, sizeof *out);
    if (len > RB_MANIFEST_LIMIT) return rb_fail(err, RESBM_E_FORMAT, "%s has %zu bytes: too many", name, len);
    json_error_t why;
    reader r = {.name = name, .m = out, .err = err};
    r.body = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);
    if (!r.body) return rb_fail(err, RESBM_E_FORMAT, "%s:%d:%d: %s", name, why.line, why.column, why.text);
    out->owned = r.body;
    resbm_status st = json_is_object(r.body) ? read_head(&r) : bad(&r, "content", "is no JSON object");
    if (st == RESBM_OK) st = read_counters(&r);
    if (st == RESBM_OK) st = read_files(&r);
    if (st != RESBM_OK) rb_manifest_free(out);
    return st;
}

void rb_manifest_free(rb_manifest *m) {
    json_decref(m->owned);
    free(m->files);
    memset(m, 0, sizeof *m);
}
