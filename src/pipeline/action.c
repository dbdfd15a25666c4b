#include "pipeline/action.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_text[RB_ACT_COUNT] = {"F", "B",  "I",  "W",  "TF", "TB",
                                                    "U", "SF", "RF", "SB", "RB"};

void rb_schedule_free(rb_schedule *s) {
    for (int i = 0; s->stage && i < s->stages; i++) free(s->stage[i].items);
    free(s->stage);
    free(s->stage_of);
    free(s->low);
    free(s->high);
    free(s->dealt);
    free(s->twin_of);
    *s = (rb_schedule){0};
}

resbm_status rb_action_push(rb_action_list *l, rb_action a, rb_err *err) {
    if (l->count == l->capacity) {
        int capacity = l->capacity ? 2 * l->capacity : 16;
        rb_action *p = realloc(l->items, (size_t)capacity * sizeof *p);
        if (!p) return rb_fail(err, RESBM_E_MEMORY, "no memory for a list of %d actions", capacity);
        l->items = p;
        l->capacity = capacity;
    }
    l->items[l->count++] = a;
    return RESBM_OK;
}

int rb_action_print(char *out, size_t size, rb_action a) {
    const char *kind = (unsigned)a.kind < RB_ACT_COUNT ? kind_text[a.kind] : "?";
    if (a.behind) return snprintf(out, size, "%d%s%d-%d", a.segment, kind, a.microbatch, a.behind);
    return snprintf(out, size, "%d%s%d", a.segment, kind, a.microbatch);
}

/* A decimal number without sign that fits an int; NULL when there is none. */
static const char *parse_number(const char *p, int *out) {
    if (*p < '0' || *p > '9') return NULL;
    int v = 0;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (v > (INT_MAX - 9) / 10) return NULL;
        v = 10 * v + (*p - '0');
    }
    *out = v;
    return p;
}

static const char *parse_kind(const char *p, rb_action_kind *out) {
    for (int k = RB_ACT_COUNT - 1; k >= 0; k--) {
        size_t n = strlen(kind_text[k]);
        if (strncmp(p, kind_text[k], n)) continue;
        *out = (rb_action_kind)k;
        return p + n;
    }
    return NULL;
}

resbm_status rb_action_parse(const char *text, rb_action *out, rb_err *err) {
    rb_action a = {0};
    const char *p = parse_number(text, &a.segment);
    if (p) p = parse_kind(p, &a.kind);
    if (p) p = parse_number(p, &a.microbatch);
    if (p && *p == '-' && (a.kind == RB_ACT_FORWARD || a.kind == RB_ACT_TRUNK_FORWARD))
        p = parse_number(p + 1, &a.behind);
    if (!p || *p) {
        return rb_fail(err, RESBM_E_FORMAT,
                       "\"%.40s\" is no action; one looks like 2F0: segment, one of F B I W TF TB U SF RF SB "
                       "RB, microbatch",
                       text);
    }
    *out = a;
    return RESBM_OK;
}
