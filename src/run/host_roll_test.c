/* The roll: many ask to be enrolled, by one invitation. Each is answered; few names wait for somebody to come; the server is told of many at
 * once; who comes meanwhile is enrolled and stays; log, store and roll stay small; places of names that are of no use are had again. */
#include "core/clock.h"
#include "run/host.h"
#include "rb_cmocka.h"

#include <stdlib.h>
#include <sys/stat.h>

static rb_host h;
static rb_err err;
static rb_carrier carrier;
static char dir[16];

/* A store of keys, and the values of none. */
static struct {
    pthread_mutex_t lock;
    char key[4000][64];
    char names[32000];
    int keys, writes;
} store = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int find_key(const char *key) {
    for (int i = 0; i < store.keys; i++)
        if (!strcmp(store.key[i], key)) return i;
    return -1;
}

static resbm_status get(void *c, const char *key, rb_buf *out, uint64_t *revision, rb_err *e) {
    (void)c;
    (void)e;
    *revision = 0;
    pthread_mutex_lock(&store.lock);
    if (!strcmp(key, "members")) rb_buf_puts(out, store.names);
    if (find_key(key) >= 0 && !strncmp(key, "member.", 7))
        rb_buf_printf(out, "{\"public_key\": \"K%s\", \"label\": \"x\", \"came\": false}", key);
    pthread_mutex_unlock(&store.lock);
    return RESBM_OK;
}

static resbm_status set(void *c, const char *key, const void *p, size_t n, uint64_t *revision, rb_err *e) {
    (void)c;
    pthread_mutex_lock(&store.lock);
    store.writes++;
    if (find_key(key) < 0) snprintf(store.key[store.keys++], 64, "%s", key);
    if (!strcmp(key, "members")) snprintf(store.names, sizeof store.names, "%.*s", (int)n, (const char *)p);
    pthread_mutex_unlock(&store.lock);
    *revision = 1;
    (void)e;
    return RESBM_OK;
}

static resbm_status delete (void *c, const char *key, rb_err *e) {
    (void)c;
    (void)e;
    pthread_mutex_lock(&store.lock);
    int i = find_key(key);
    if (i >= 0) memmove(store.key[i], store.key[i + 1], sizeof store.key[0] * (size_t)(store.keys-- - i - 1));
    pthread_mutex_unlock(&store.lock);
    return RESBM_OK;
}

static resbm_status make_key(char seed[RB_NKEY_TEXT], char public_key[RB_NKEY_TEXT], rb_err *e) {
    (void)e;
    snprintf(seed, RB_NKEY_TEXT, "S");
    snprintf(public_key, RB_NKEY_TEXT, "U");
    return RESBM_OK;
}

/* What answers each kind of question. */
static struct {
    char subject[20];
    rb_carrier_answer answer;
} served[8];
static int services;

static resbm_status serve(void *c, const char *subject, const char *asker, void *ctx,
                          rb_carrier_answer answer, rb_err *e) {
    (void)c;
    (void)asker;
    (void)ctx;
    (void)e;
    assert_true(services < 8);
    snprintf(served[services].subject, sizeof served[0].subject, "%s", subject);
    served[services++].answer = answer;
    return RESBM_OK;
}

static const rb_carrier_module module = {
    .store_get = get, .store_set = set, .store_delete = delete, .make_key = make_key, .serve = serve};

static atomic_int refusals, probes; /* so many more; so many connections were tried */

static resbm_status probe(const rb_access *a, rb_err *e) {
    atomic_fetch_add(&probes, 1);
    if (strcmp(a->name, "probe") != 0 || strcmp(a->seed, "S") != 0) return RESBM_E_INTERNAL;
    return atomic_load(&refusals) > 0 && atomic_fetch_sub(&refusals, 1) > 0
               ? rb_fail(e, RESBM_E_CONFIG, "refused")
               : RESBM_OK;
}

static void set_up(void) {
    static rb_config cfg;
    static char load[200];
    snprintf(dir, sizeof dir, "roll.XXXXXX");
    assert_non_null(mkdtemp(dir));
    carrier = (rb_carrier){&module, NULL};
    h = (rb_host){
        .carrier = &carrier, .cfg = &cfg, .workers = 1, .slow = -1, .swap_member = -1, .seat = {-1}};
    h.probe = probe;
    h.out = tmpfile();
    h.member = calloc(RB_MOST_MEMBERS, sizeof *h.member);
    assert_non_null(h.member);
    assert_non_null(h.out);
    snprintf(load, sizeof load,
             "grep nkey \"$RESBM_SERVER_CONF\" | grep -vc probe >>%s/loads; [ ! -e %s/bad ]", dir, dir);
    h.server = (rb_server_config){.dir = dir, .host = "", .run = "r", .load = load};
    pthread_mutex_init(&h.lock, NULL);
    pthread_mutex_init(&h.changing, NULL);
    pthread_mutex_init(&h.telling, NULL);
    pthread_mutex_init(&h.notes.lock, NULL);
    pthread_mutex_init(&h.enrol_notes.lock, NULL);
    services = 0;
    assert_ok(rb_host_members_open(&h, &err), &err);
}

static void tear_down(void) {
    rb_host_roll_close(&h);
    fclose(h.out);
    free(h.member);
    store.keys = store.writes = 0;
    *store.names = 0;
}

static int lines(FILE *f) {
    int n = 0;
    rewind(f);
    for (int c; (c = fgetc(f)) != EOF;) n += c == '\n';
    return n;
}

/* How often the server was told, and of how many the last time. */
static int loads(int *users) {
    char path[100];
    snprintf(path, sizeof path, "%s/loads", dir);
    FILE *f = fopen(path, "r");
    int n = 0;
    while (f && fscanf(f, "%d", users) == 1) n++;
    if (f) fclose(f);
    return n;
}

static void key_of(int i, char key[RB_NKEY_TEXT]) {
    snprintf(key, RB_NKEY_TEXT, "U%055d", i);
}

static bool ask(int i, char name[RB_CARRIER_NAME], bool *later) {
    char key[RB_NKEY_TEXT];
    key_of(i, key);
    return !rb_host_enrol(&h, key, "somebody", name, later, &err);
}

static int unused(void) {
    int n = 0;
    pthread_mutex_lock(&h.lock);
    for (int i = 0; i < h.members; i++) n += !h.member[i].came && !*h.member[i].revoked;
    pthread_mutex_unlock(&h.lock);
    return n;
}

/* As time goes by. */
static void grow_old(int64_t by) {
    pthread_mutex_lock(&h.lock);
    for (int i = 0; i < h.members; i++) h.member[i].enrolled_ns -= by, h.member[i].heard_ns -= by;
    pthread_mutex_unlock(&h.lock);
}

static void comes(const char *name) {
    pthread_mutex_lock(&h.lock);
    rb_member *m = rb_host_find(&h, name);
    assert_non_null(m);
    m->came = m->seen = true;
    m->lapsed = false;
    m->heard_ns = rb_now_ns();
    pthread_mutex_unlock(&h.lock);
}

static bool is_there(const char *name) {
    pthread_mutex_lock(&h.lock);
    bool is = rb_host_find(&h, name) != NULL;
    pthread_mutex_unlock(&h.lock);
    return is;
}

static void a_flood(void **state) {
    enum { ASKED = 3000 };
    char name[RB_CARRIER_NAME], honest[RB_CARRIER_NAME], again[RB_CARRIER_NAME];
    bool later;
    int users = 0, granted = 0;
    (void)state;
    set_up();
    assert_true(ask(-1, honest, &later));
    assert_true(ask(-1, again, &later)); /* the answer was lost */
    assert_string_equal(honest, again);
    comes(honest);
    for (int i = 0; i < ASKED; i++) {
        bool got = ask(i, name, &later);
        granted += got;
        assert_true(got || later);
        rb_host_note_asked(&h, &h.notes, "%d", i);
    }
    assert_int_equal(granted, RB_MOST_UNUSED);
    assert_int_equal(unused(), RB_MOST_UNUSED);
    assert_true(strstr(err.text, "have not come yet; their places are free in some seconds") != NULL);
    assert_true(store.writes < 2 * RB_MOST_UNUSED + 20); /* those that were refused cost none */
    assert_true(lines(h.out) < 1100);                    /* two minutes, if one has just ended */
    for (int64_t until = rb_now_ns() + 60 * RB_SEC; users < RB_MOST_UNUSED + 3 && rb_now_ns() < until;) {
        loads(&users);
        rb_sleep_ns(20 * RB_MS);
    }
    assert_int_equal(users, RB_MOST_UNUSED + 3); /* coordinator, invitation, the honest one, and those */
    grow_old(11 * RB_SEC);
    assert_true(ask(ASKED, name, &later)); /* in the place of the oldest, which had time to come */
    assert_int_equal(unused(), RB_MOST_UNUSED);
    assert_int_equal(h.members, RB_MOST_UNUSED + 1);
    assert_true(is_there(honest) && is_there(name));
    assert_int_equal(store.keys, RB_MOST_UNUSED + 2); /* its key is gone; "members" is one */
    tear_down();
}

/* One reload a second at the most, and none where nothing has changed. */
static void tells_of_many_at_once(void **state) {
    char name[RB_CARRIER_NAME];
    bool later;
    int users = 0, asked = 0;
    (void)state;
    set_up();
    int64_t begin = rb_now_ns();
    /* On a busy machine more, until the first of them are told of. */
    for (; asked < 40 || (asked + 1 < RB_MOST_UNUSED && loads(&users) < 2); asked++) {
        assert_true(ask(asked, name, &later));
        rb_sleep_ns(20 * RB_MS);
    }
    assert_true(ask(asked++, name, &later));
    for (int64_t until = begin + 60 * RB_SEC; users < asked + 2 && rb_now_ns() < until;
         rb_sleep_ns(20 * RB_MS))
        loads(&users);
    assert_int_equal(users, asked + 2);
    int told = loads(&users);
    assert_true(told >= 3 && told <= 3 + (rb_now_ns() - begin) / RB_SEC);
    rb_sleep_ns(1200 * RB_MS);
    assert_int_equal(loads(&users), told);
    tear_down();
}

static void expires(void **state) {
    char name[RB_CARRIER_NAME];
    bool later;
    int users = -1;
    (void)state;
    set_up();
    for (int i = 0; i < 10; i++) assert_true(ask(i, name, &later));
    comes(name);
    rb_host_expire(&h, rb_now_ns());
    assert_int_equal(unused(), 9);
    grow_old(3601 * RB_SEC);
    rb_host_expire(&h, rb_now_ns());
    assert_int_equal(unused(), 0);
    for (int64_t until = rb_now_ns() + 60 * RB_SEC; users != 3 && rb_now_ns() < until;
         rb_sleep_ns(20 * RB_MS))
        loads(&users);
    assert_int_equal(users, 3); /* their keys open nothing */
    for (int i = 10; i < 19; i++) assert_true(ask(i, name, &later));
    assert_int_equal(h.members, 10); /* in the places of those */
    tear_down();
}

/* A roll that is full of participants which came: who is revoked, or was never of use and is away for long, gives way; who works does not. */
static void is_full(void **state) {
    char name[RB_CARRIER_NAME], revoked[RB_CARRIER_NAME], away[RB_CARRIER_NAME];
    bool later;
    (void)state;
    set_up();
    for (int i = 0; i < RB_MOST_MEMBERS; i++) {
        assert_true(ask(i, name, &later));
        comes(name);
        if (i == 500) snprintf(revoked, sizeof revoked, "%s", name);
        if (i == 700) snprintf(away, sizeof away, "%s", name);
    }
    assert_false(ask(RB_MOST_MEMBERS, name, &later));
    assert_false(later);
    assert_true(strstr(err.text, "resbm revoke") != NULL);
    assert_ok(rb_host_revoke(&h, revoked, "by the host", &err), &err);
    h.seat[0] = 500; /* until the epoch ends */
    assert_false(ask(RB_MOST_MEMBERS, name, &later));
    h.seat[0] = -1;
    assert_true(ask(RB_MOST_MEMBERS, name, &later));
    comes(name);
    assert_false(is_there(revoked));
    grow_old(3601 * RB_SEC);
    assert_false(ask(RB_MOST_MEMBERS + 1, name, &later));
    pthread_mutex_lock(&h.lock);
    rb_host_find(&h, away)->lapsed = true;
    pthread_mutex_unlock(&h.lock);
    assert_true(ask(RB_MOST_MEMBERS + 1, name, &later));
    assert_false(is_there(away));
    assert_int_equal(h.members, RB_MOST_MEMBERS);
    tear_down();
}

/* A server that cannot be told: new ones hear why, until it can. */
static void cannot_tell(void **state) {
    char name[RB_CARRIER_NAME], bad[100];
    bool later;
    (void)state;
    set_up();
    snprintf(bad, sizeof bad, "%s/bad", dir);
    assert_int_equal(mkdir(bad, 0700), 0);
    assert_true(ask(0, name, &later));
    for (int64_t until = rb_now_ns() + 60 * RB_SEC; rb_now_ns() < until; rb_sleep_ns(20 * RB_MS)) {
        pthread_mutex_lock(&h.lock);
        bool known = *h.trouble;
        pthread_mutex_unlock(&h.lock);
        if (known) break;
    }
    assert_false(ask(1, name, &later));
    assert_true(strstr(err.text, "the server does not know who may join") != NULL);
    tear_down();
}

/* That the command has ended well is not enough: the server has to let in whom only the new configuration knows. */
static void known_only_when_it_lets_in(void **state) {
    (void)state;
    set_up();
    atomic_store(&refusals, 3);
    atomic_store(&probes, 0);
    assert_ok(rb_host_tell_server(&h, &err), &err);
    assert_int_equal(atomic_load(&probes), 4);
    tear_down();
}

/* Our own server, which the keeper is just starting anew: it reads the configuration as it begins. */
static void a_server_that_begins(void **state) {
    (void)state;
    set_up();
    h.server.load = NULL;
    h.server.host = "127.0.0.1";
    atomic_store(&refusals, 2);
    atomic_store(&probes, 0);
    assert_ok(rb_host_tell_server(&h, &err), &err);
    assert_int_equal(atomic_load(&probes), 3);
    tear_down();
}

/* What our own server has said against it since. */
static void refused_by_its_log(void **state) {
    char words[200], path[100];
    (void)state;
    set_up();
    snprintf(path, sizeof path, "%s/server.log", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "[1] [ERR] Failed to reload server configuration: long ago\n");
    fflush(f);
    int64_t since = rb_server_log_bytes(dir);
    assert_false(rb_server_refuses(dir, since, words, sizeof words));
    fprintf(f, "[1] [INF] a word\n[1] [ERR] Failed to reload server configuration: no certificate\n");
    fclose(f);
    assert_true(rb_server_refuses(dir, since, words, sizeof words));
    assert_string_equal(words, "Failed to reload server configuration: no certificate");
    assert_true(rb_server_refuses(dir, 1 << 20, words, sizeof words)); /* a new log has begun */
    assert_false(rb_server_refuses("nowhere", 0, words, sizeof words));
    tear_down();
}

/* What a coordinator before has enrolled. */
static void loads_the_roll(void **state) {
    (void)state;
    uint64_t revision;
    set(NULL, "member.p0-1", "", 0, &revision, &err);
    set(NULL, "member.p1-2", "", 0, &revision, &err);
    set(NULL, "members", "p0-1\np1-2\n", 10, &revision, &err);
    set_up();
    assert_int_equal(h.members, 2);
    assert_int_equal(unused(), 2);
    tear_down();
}

static bool has_list(const char *from, size_t *bytes) {
    rb_buf out = {0};
    for (int i = 0; i < services; i++)
        if (!strcmp(served[i].subject, "status.*")) served[i].answer(&h, from, "{}", 2, &out);
    assert_true(out.len > 0);
    bool has = strstr(out.data, "\"participants\"") != NULL;
    *bytes += out.len;
    rb_buf_free(&out);
    return has;
}

/* Who asks again and again for the list of all gets so many bytes a minute; others, and the host itself, what they ask for. */
static void lists_end(void **state) {
    enum { ASKED = 400 };
    char name[RB_CARRIER_NAME], other[RB_CARRIER_NAME];
    bool later;
    size_t bytes = 0, rest = 0;
    int had = 0;
    (void)state;
    set_up();
    snprintf(h.access.name, sizeof h.access.name, "host");
    for (int i = 0; i < 150; i++) {
        snprintf(other, sizeof other, "%s", i ? name : "");
        assert_true(ask(i, name, &later));
        comes(name);
    }
    for (int i = 0; i < ASKED; i++) had += has_list(name, &bytes);
    assert_true(had >= 50 && had <= 150); /* of two minutes, if one ends in the middle of it */
    assert_true(bytes < 8 << 20);
    assert_true(has_list(other, &rest));
    for (int i = 0; i < ASKED; i++) assert_true(has_list("host", &rest));
    tear_down();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_flood),
                                       cmocka_unit_test(lists_end),
                                       cmocka_unit_test(tells_of_many_at_once),
                                       cmocka_unit_test(expires),
                                       cmocka_unit_test(is_full),
                                       cmocka_unit_test(cannot_tell),
                                       cmocka_unit_test(known_only_when_it_lets_in),
                                       cmocka_unit_test(a_server_that_begins),
                                       cmocka_unit_test(refused_by_its_log),
                                       cmocka_unit_test(loads_the_roll)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
