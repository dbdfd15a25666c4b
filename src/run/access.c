#include "run/access.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

resbm_status rb_access_print(const rb_access *a, char **out, rb_err *err) {
    json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:s}", "url", a->url, "run", a->run, "name", a->name, "seed",
                          a->seed, "certificate", a->certificate);
    const struct {
        const char *key;
        double value;
    } number[] = {{"up_bits", a->up_bits}, {"uplink_bits", a->uplink_bits}};
    for (int i = 0; i < 2; i++)
        if (number[i].value > 0) json_object_set_new(j, number[i].key, json_real(number[i].value));
    *out = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return *out ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for an access");
}

static bool take(const json_t *j, const char *key, char *out, size_t size) {
    const char *s = json_string_value(json_object_get(j, key));
    if (!s || strlen(s) >= size) return false;
    memcpy(out, s, strlen(s) + 1);
    return true;
}

static bool plain(const char *s) {
    return *s && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == strlen(s);
}

resbm_status rb_access_parse(const char *text, rb_access *a, rb_err *err) {
    *a = (rb_access){0};
    json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    bool ok = take(j, "url", a->url, sizeof a->url) && take(j, "run", a->run, sizeof a->run) &&
              take(j, "name", a->name, sizeof a->name) && take(j, "seed", a->seed, sizeof a->seed) &&
              take(j, "certificate", a->certificate, sizeof a->certificate) && plain(a->run) &&
              plain(a->name);
    a->up_bits = json_number_value(json_object_get(j, "up_bits"));
    a->uplink_bits = json_number_value(json_object_get(j, "uplink_bits"));
    json_decref(j);
    return ok ? RESBM_OK : rb_fail(err, RESBM_E_FORMAT, "this is no access to a run's server");
}

resbm_status rb_access_connect(const rb_access *a, int64_t deadline_ns,
                               void (*note)(void *ctx, const char *text), void *ctx, rb_carrier **out,
                               rb_err *err) {
    const rb_carrier_module *m;
    RB_TRY(rb_carrier_module_load("nats", &m, err));
    rb_carrier_options o = {.url = a->url,
                            .run = a->run,
                            .name = a->name,
                            .seed = *a->seed ? a->seed : NULL,
                            .certificate = *a->certificate ? a->certificate : NULL,
                            .catch_all = a->catch_all,
                            .only_asks = !strcmp(a->name, RB_INVITED) || !strcmp(a->name, RB_PROBE),
                            .deadline_ns = deadline_ns,
                            .ctx = ctx,
                            .note = note,
                            .malformed = a->malformed};
    return rb_carrier_open(m, &o, out, err);
}
