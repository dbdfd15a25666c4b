#include "run/compare_words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "run/config.h"
#include "run/keys.h"

void rb_overrides_free(rb_overrides *o) {
    for (int i = 0; i < o->count; i++) free(o->text[i]);
    free(o->text);
    *o = (rb_overrides){0};
}

resbm_status rb_overrides_add(rb_overrides *o, const char *place, const char *text, rb_err *err) {
    if (!strncmp(text, "train.seed=", 11))
        return rb_fail(err, RESBM_E_CONFIG,
                       "%s: train.seed: every variant is trained with the same seeds, which `seeds` names", place);
    rb_config *scratch = calloc(1, sizeof *scratch);
    char **grown = realloc(o->text, (size_t)(o->count + 1) * sizeof *grown);
    if (grown) o->text = grown;
    resbm_status st = RESBM_OK;
    if (!scratch || !grown || !(grown[o->count] = strdup(text)))
        st = rb_fail(err, RESBM_E_MEMORY, "no memory for the setting %.200s", text);
    else
        o->count++;
    if (!st) st = rb_config_defaults(scratch, err);
    if (!st && (st = rb_config_override(scratch, text, err))) rb_err_context(err, st, "%s: ", place);
    free(scratch);
    return st;
}

void rb_compare_hint(const char *name, const char *words, char *out, size_t size) {
    const char *list = words, *word;
    char nearest[RB_COMPARE_NAME] = "", one[RB_COMPARE_NAME];
    int best = (int)strlen(name) / 2 + 1;
    for (size_t n; (n = rb_choice_next(&list, &word)) > 0;) {
        snprintf(one, sizeof one, "%.*s", (int)n, word);
        int distance = rb_edit_distance(name, one);
        if (distance >= best) continue;
        best = distance;
        strcpy(nearest, one);
    }
    if (*nearest)
        snprintf(out, size, ": did you mean '%s'?", nearest);
    else
        snprintf(out, size, ": there are %s", words);
}

/* Splits at commas outside [ ]; the pieces lie in text. */
static int split_items(char *text, char **item, int most) {
    int n = 0, depth = 0;
    char *begin = text;
    for (char *p = text;; p++) {
        depth += *p == '[';
        depth -= *p == ']' && depth > 0;
        if (*p && (*p != ',' || depth)) continue;
        bool last = !*p;
        *p = 0;
        if (n == most) return -1;
        item[n++] = begin;
        begin = p + 1;
        if (last) return n;
    }
}

static resbm_status add_sweep(rb_compare_variant *v, char *key, char *list, const char *place, rb_err *err) {
    char *item[RB_COMPARE_POINTS + 1];
    size_t len = strlen(list);
    if (len < 2 || *list != '[' || list[len - 1] != ']')
        return rb_fail(err, RESBM_E_CONFIG, "%s: sweep.%s takes a list: sweep.%s=[1,2]", place, key, key);
    list[len - 1] = 0;
    int n = split_items(list + 1, item, RB_COMPARE_POINTS + 1);
    return rb_compare_set_sweep(v, key, (const char *const *)item, n, place, err);
}

static resbm_status add_item(rb_compare_variant *v, char *item, const char *place, rb_err *err) {
    char *eq = strchr(item, '=');
    if (eq && !strncmp(item, "control=", 8)) return rb_compare_set_control(v, eq + 1, place, err);
    if (eq && !strncmp(item, "like=", 5)) {
        snprintf(v->like, sizeof v->like, "%s", eq + 1);
        return RESBM_OK;
    }
    if (!eq || strncmp(item, "sweep.", 6)) return rb_overrides_add(&v->set, place, item, err);
    *eq = 0;
    return add_sweep(v, item + 6, eq + 1, place, err);
}

resbm_status rb_compare_spec_add_variant(rb_compare_spec *s, const char *text, rb_err *err) {
    enum { MOST = 256 };
    char place[200], *item[MOST];
    rb_compare_variant *v;
    snprintf(place, sizeof place, "--variant %.150s", text);
    const char *colon = strchr(text, ':');
    char *name = strdup(text);
    if (!name) return rb_fail(err, RESBM_E_MEMORY, "no memory for %s", place);
    if (colon) name[colon - text] = 0;
    resbm_status st = rb_compare_new_variant(s, name, place, &v, err);
    int n = 0;
    if (!st && colon && colon[1]) n = split_items(name + (colon - text) + 1, item, MOST);
    if (n < 0) st = rb_fail(err, RESBM_E_CONFIG, "%s: more than %d settings", place, MOST);
    for (int i = 0; i < n && !st; i++) st = add_item(v, item[i], place, err);
    free(name);
    return st;
}
