#include "run/compare_spec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "run/compare_words.h"
#include "run/config.h"

int rb_compare_find(const rb_compare_spec *s, const char *name) {
    for (int i = 0; i < s->variants; i++)
        if (!strcmp(s->variant[i].name, name)) return i;
    return -1;
}

/* A name becomes a folder. */
static bool good_name(const char *name) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-";
    return *name && *name != '.' && strspn(name, letters) == strlen(name) &&
           strlen(name) < RB_COMPARE_NAME - 8;
}

/* name and place may lie in a variant, which moves when the array grows. */
resbm_status rb_compare_new_variant(rb_compare_spec *s, const char *name, const char *place,
                                    rb_compare_variant **out, rb_err *err) {
    rb_compare_variant fresh = {0};
    if (!good_name(name))
        return rb_fail(err, RESBM_E_CONFIG, "%s: '%.80s' names no variant: up to %d letters, digits, . _ + -",
                       place, name, RB_COMPARE_NAME - 9);
    if (rb_compare_find(s, name) >= 0)
        return rb_fail(err, RESBM_E_CONFIG, "%s: variant %s is there twice", place, name);
    if (s->variants == RB_COMPARE_VARIANTS)
        return rb_fail(err, RESBM_E_CONFIG, "%s: more than %d variants", place, RB_COMPARE_VARIANTS);
    strcpy(fresh.name, name);
    snprintf(fresh.place, sizeof fresh.place, "%s", place);
    rb_compare_variant *v = realloc(s->variant, (size_t)(s->variants + 1) * sizeof *v);
    if (!v) return rb_fail(err, RESBM_E_MEMORY, "no memory for variant %s", fresh.name);
    s->variant = v;
    *out = &v[s->variants++];
    **out = fresh;
    return RESBM_OK;
}

static bool take(const char **text, const char *head) {
    size_t n = strlen(head);
    if (strncmp(*text, head, n)) return false;
    *text += n;
    return true;
}

resbm_status rb_compare_set_control(rb_compare_variant *v, const char *text, const char *place, rb_err *err) {
    const char *rest = text;
    if (!strcmp(text, "uncompressed"))
        v->control = RB_CONTROL_UNCOMPRESSED;
    else if (take(&rest, "alone of "))
        v->control = RB_CONTROL_ALONE;
    else if (take(&rest, "same size as "))
        v->control = RB_CONTROL_SAME_SIZE;
    else
        return rb_fail(
            err, RESBM_E_CONFIG,
            "%s: control '%.80s': there are 'uncompressed', 'alone of VARIANT' and 'same size as VARIANT'",
            place, text);
    if (v->control != RB_CONTROL_UNCOMPRESSED) snprintf(v->of, sizeof v->of, "%s", rest);
    return RESBM_OK;
}

resbm_status rb_compare_set_sweep(rb_compare_variant *v, const char *key, const char *const *value, int n,
                                  const char *place, rb_err *err) {
    char text[256];
    rb_overrides trial = {0};
    if (*v->sweep.key)
        return rb_fail(err, RESBM_E_CONFIG, "%s: variant %s sweeps %s already; give %s a variant of its own",
                       place, v->name, v->sweep.key, key);
    if (n < 2 || n > RB_COMPARE_POINTS / 2)
        return rb_fail(err, RESBM_E_CONFIG, "%s: a sweep of %s takes a list of 2 to %d values", place, key,
                       RB_COMPARE_POINTS / 2);
    resbm_status st = RESBM_OK;
    for (int i = 0; i < n && !st; i++) {
        for (int j = 0; j < i; j++)
            if (!strcmp(value[i], value[j]))
                st = rb_fail(err, RESBM_E_CONFIG, "%s: the sweep of %s has %s twice", place, key, value[i]);
        if (st) break;
        snprintf(text, sizeof text, "%.90s=%.90s", key, value[i]);
        st = rb_overrides_add(&trial, place, text, err);
        snprintf(v->sweep.value[i], sizeof v->sweep.value[i], "%s", value[i]);
    }
    rb_overrides_free(&trial);
    snprintf(v->sweep.key, sizeof v->sweep.key, "%s", key);
    v->sweep.values = n;
    return st;
}

resbm_status rb_compare_spec_add_link(rb_compare_spec *s, const char *text, const char *place, rb_err *err) {
    char rate[64], set[80];
    const char *slash = strchr(text, '/');
    size_t len = slash ? (size_t)(slash - text) : strlen(text);
    if (s->links == RB_COMPARE_LINKS)
        return rb_fail(err, RESBM_E_CONFIG, "%s: more than %d links", place, RB_COMPARE_LINKS);
    if (strlen(text) >= sizeof rate)
        return rb_fail(err, RESBM_E_CONFIG,
                       "%s: '%.80s' is no link: write RATE or RATE/LATENCY, e.g. 80mbit/20ms", place, text);
    rb_config *c = calloc(1, sizeof *c);
    if (!c) return rb_fail(err, RESBM_E_MEMORY, "no memory for a link");
    snprintf(rate, sizeof rate, "%.*s", (int)len, text);
    resbm_status st = rb_config_defaults(c, err);
    for (int i = 0; i < 2 && !st; i++) {
        snprintf(set, sizeof set, "link.%s=%s", i ? "down" : "up", rate);
        st = rb_config_override(c, set, err);
    }
    snprintf(set, sizeof set, "link.latency=%s", slash ? slash + 1 : "0ms");
    if (!st) st = rb_config_override(c, set, err);
    if (st) rb_err_context(err, st, "%s: link %s: ", place, text);
    if (!st) {
        rb_compare_link *l = &s->link[s->links++];
        strcpy(l->name, text);
        l->shape = c->link;
    }
    free(c);
    return st;
}

resbm_status rb_compare_spec_target(rb_compare_spec *s, const char *text, const char *place, rb_err *err) {
    const char *rest = text;
    char *end;
    s->target_slack = 0;
    s->target = NAN;
    if (take(&rest, "best uncompressed")) {
        if (!*rest) return RESBM_OK;
        double percent = strtod(rest + strspn(rest, " +"), &end);
        if (!strcmp(end, "%") && percent >= 0 && percent <= 100) {
            s->target_slack = percent / 100;
            return RESBM_OK;
        }
    } else {
        s->target = strtod(text, &end);
        if (*text && !*end && s->target > 0 && isfinite(s->target)) return RESBM_OK;
    }
    return rb_fail(err, RESBM_E_CONFIG,
                   "%s: target '%.80s': a loss, 'best uncompressed' or 'best uncompressed + 1%%'", place,
                   text);
}

void rb_compare_spec_seeds(rb_compare_spec *s, int n) {
    s->seeds = n;
    for (int i = 0; i < n; i++) s->seed[i] = (uint64_t)i + 1;
}

void rb_compare_spec_free(rb_compare_spec *s) {
    rb_overrides_free(&s->base_set);
    rb_overrides_free(&s->set);
    rb_overrides_free(&s->deploy);
    for (int i = 0; i < s->variants; i++) rb_overrides_free(&s->variant[i].set);
    free(s->variant);
    *s = (rb_compare_spec){0};
}

/* ---- across entries */

static resbm_status check_reference(const rb_compare_spec *s, const rb_compare_variant *v, const char *what,
                                    const char *name, rb_err *err) {
    char words[2048] = "", hint[160];
    size_t n = 0;
    if (!*name || (rb_compare_find(s, name) >= 0 && strcmp(name, v->name))) return RESBM_OK;
    if (!strcmp(name, v->name))
        return rb_fail(err, RESBM_E_CONFIG, "%s: variant %s: %s itself: name another one", v->place, v->name, what);
    for (int i = 0; i < s->variants && n < sizeof words; i++)
        n += (size_t)snprintf(words + n, sizeof words - n, "%s%s", i ? "|" : "", s->variant[i].name);
    rb_compare_hint(name, words, hint, sizeof hint);
    return rb_fail(err, RESBM_E_CONFIG, "%s: variant %s: %s '%s' is no other variant%s", v->place, v->name,
                   what, name, hint);
}

/* Of the chain from v over likes and ofs: does it come to an end? */
static resbm_status check_chain(const rb_compare_spec *s, const rb_compare_variant *v, rb_err *err) {
    const rb_compare_variant *at = v;
    for (int i = 0; i <= s->variants; i++) {
        const char *next = *at->of ? at->of : at->like;
        if (!*next) return RESBM_OK;
        at = &s->variant[rb_compare_find(s, next)];
    }
    return rb_fail(err, RESBM_E_CONFIG, "%s: variant %s is defined by itself, over %s", v->place, v->name,
                   *v->of ? v->of : v->like);
}

static resbm_status check_variant(const rb_compare_spec *s, const rb_compare_variant *v, rb_err *err) {
    RB_TRY(check_reference(s, v, "like", v->like, err));
    RB_TRY(check_reference(s, v, "control of", v->of, err));
    if (*v->like && *v->of)
        return rb_fail(err, RESBM_E_CONFIG, "%s: variant %s has both like and control of another: take one",
                       v->place, v->name);
    return RESBM_OK;
}

/* The twin takes the settings of `alone` by like; how long it trains is known once time was measured. */
static resbm_status add_twin(rb_compare_spec *s, int of, rb_err *err) {
    char name[RB_COMPARE_NAME + 8], place[sizeof s->variant[of].place];
    rb_compare_variant *twin;
    snprintf(name, sizeof name, "%s-time", s->variant[of].name);
    strcpy(place, s->variant[of].place); /* the array moves as it grows */
    if (rb_compare_find(s, name) >= 0)
        return rb_fail(err, RESBM_E_CONFIG,
                       "%s: variant %s: where there are links a control 'alone of' brings a second row, %s, for as "
                       "long as the pipeline takes: give the variant of that name another one",
                       s->variant[rb_compare_find(s, name)].place, name, name);
    RB_TRY(rb_compare_new_variant(s, name, place, &twin, err));
    twin->control = RB_CONTROL_ALONE_AS_LONG;
    strcpy(twin->of, s->variant[of].name);
    return RESBM_OK;
}

resbm_status rb_compare_spec_finish(rb_compare_spec *s, rb_err *err) {
    int written = s->variants;
    if (!written)
        return rb_fail(err, RESBM_E_CONFIG,
                       "%s: no variants to compare: list them under variants, or by --variant", s->file);
    for (int i = 0; i < written; i++) RB_TRY(check_variant(s, &s->variant[i], err));
    for (int i = 0; i < written; i++) RB_TRY(check_chain(s, &s->variant[i], err));
    for (int i = 0; i < written && s->links; i++)
        if (s->variant[i].control == RB_CONTROL_ALONE) RB_TRY(add_twin(s, i, err));
    return RESBM_OK;
}
