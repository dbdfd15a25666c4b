/* long_values ACCESS.json: values of a store that are longer than a message may be, and a store that is full, on the run's server. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/clock.h"
#include "link/carrier.h"
#include "run/access.h"

enum { LONG = 300 * 1000 };
static int failed;
#define CHECK(that)                                                                                          \
    do {                                                                                                     \
        if (!(that)) failed++, printf("line %d: not %s (%s)\n", __LINE__, #that, err.text);                  \
    } while (0)

static char value[2][LONG];
static rb_carrier *c;
static rb_err err;

static bool holds(const char *key, const char *want, size_t n, uint64_t *revision) {
    rb_buf b = {0};
    bool same =
        !c->module->store_get(c->state, key, &b, revision, &err) && b.len == n && !memcmp(b.data, want, n);
    rb_buf_free(&b);
    return same;
}

static int keys(void) {
    rb_buf b = {0};
    int n = 0;
    CHECK(!c->module->store_keys(c->state, &b, &err));
    for (size_t i = 0; i < b.len; i++) n += b.data[i] == '\n';
    rb_buf_free(&b);
    return n;
}

static void long_values(void) {
    const rb_carrier_module *m = c->module;
    uint64_t revision = 0, seen, old, stale;
    CHECK(m->store_piece(c->state) < LONG / 4);
    CHECK(!m->store_set(c->state, "long", value[0], LONG, &revision, &err));
    CHECK(holds("long", value[0], LONG, &seen) && seen == revision);
    int n = keys();
    CHECK(n >= 5);
    stale = old = revision;
    CHECK(!m->store_set(c->state, "long", value[1], LONG, &revision, &err));
    CHECK(holds("long", value[1], LONG, &seen) && seen == revision && seen != old);
    CHECK(keys() == n); /* the pieces before are gone */
    CHECK(m->store_set(c->state, "long", value[0], LONG, &stale, &err) == RESBM_E_STATE);
    CHECK(strstr(err.text, "changed by another") != NULL);
    stale = 0;
    CHECK(m->store_set(c->state, "long", "x", 1, &stale, &err) == RESBM_E_STATE);
    CHECK(holds("long", value[1], LONG, &seen));
    CHECK(!m->store_set(c->state, "long", "short", 5, &revision, &err) && holds("long", "short", 5, &seen));
    CHECK(keys() == 1); /* and so are those of a long value where a short one follows, */
    CHECK(!m->store_set(c->state, "long", value[0], LONG, &revision, &err) && keys() == n);
    CHECK(!m->store_delete(c->state, "long", &err) && keys() == 0); /* or none, */
    revision = 0;
    CHECK(!m->store_set(c->state, "long", value[1], LONG, &revision, &err) && keys() == n);
}

/* or where another process has written the long one. */
static void long_values_of_another(void) {
    const rb_carrier_module *m = c->module;
    uint64_t revision;
    CHECK(keys() > 1 && holds("long", value[1], LONG, &revision));
    CHECK(!m->store_set(c->state, "long", "short", 5, &revision, &err) && keys() == 1);
    CHECK(holds("long", "short", 5, &revision));
}

static void full(void) {
    resbm_status st = RESBM_OK;
    for (int i = 0; i < 20 && !st; i++) {
        char key[16];
        uint64_t revision = UINT64_MAX;
        snprintf(key, sizeof key, "k%d", i);
        st = c->module->store_set(c->state, key, value[0], 60000, &revision, &err);
    }
    CHECK(st == RESBM_E_IO && strstr(err.text, "is full"));
}

static rb_carrier *open_store(const char *file, const char *bucket, int64_t most) {
    rb_buf text = {0};
    rb_access a;
    rb_carrier *out = NULL;
    if (rb_read_file(file, 65536, &text, &err) || rb_access_parse(text.data, &a, &err) ||
        rb_access_connect(&a, rb_now_ns() + 20 * RB_SEC, NULL, NULL, &out, &err) ||
        out->module->store_open(out->state, bucket, most, &err)) {
        printf("%s\n", err.text);
        exit(1);
    }
    rb_buf_free(&text);
    return out;
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    for (int i = 0; i < LONG; i++)
        value[0][i] = (char)(i * 7 + i / 251), value[1][i] = (char)(i * 5 + i / 241);
    c = open_store(argv[1], "resbm-long-values", -1);
    long_values();
    rb_carrier_close(c, 0);
    c = open_store(argv[1], "resbm-long-values", -1);
    long_values_of_another();
    rb_carrier_close(c, 0);
    c = open_store(argv[1], "resbm-small", 500000);
    full();
    rb_carrier_close(c, 0);
    return failed != 0;
}
