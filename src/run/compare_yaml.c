/* A specification from YAML, by libyaml's document tree: nothing lies deeper than a variant's settings. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>
#include "core/buf.h"
#include "run/compare_words.h"
#include "run/config.h"
#include "run/keys.h"

typedef struct reader {
    rb_compare_spec *s;
    yaml_document_t doc;
    const char *name;
    rb_err *err;
} reader;

enum { VALUE_TEXT = 4096, PLACE = 320 };

static const char *place_of(const reader *r, const yaml_node_t *n, char out[PLACE]) {
    snprintf(out, PLACE, "%.280s:%zu:%zu", r->name, n->start_mark.line + 1, n->start_mark.column + 1);
    return out;
}

static resbm_status fault(reader *r, const yaml_node_t *n, const char *text) {
    char place[PLACE];
    return rb_fail(r->err, RESBM_E_CONFIG, "%s: %s", place_of(r, n, place), text);
}

static yaml_node_t *node(reader *r, int id) {
    return yaml_document_get_node(&r->doc, id);
}

/* The scalar's text, NULL for a list or map (or with a NUL inside, which no key takes). */
static const char *text_of(const yaml_node_t *n) {
    const char *t = (const char *)n->data.scalar.value;
    return n->type == YAML_SCALAR_NODE && strlen(t) == n->data.scalar.length ? t : NULL;
}

static int item_count(const yaml_node_t *n) {
    return n->type == YAML_SEQUENCE_NODE ? (int)(n->data.sequence.items.top - n->data.sequence.items.start)
                                         : -1;
}

/* "value" or "[a,b]" */
static resbm_status value_text(reader *r, yaml_node_t *n, char out[VALUE_TEXT]) {
    size_t at = 0;
    if (text_of(n)) {
        snprintf(out, VALUE_TEXT, "%s", text_of(n));
        return strlen(text_of(n)) < VALUE_TEXT ? RESBM_OK : fault(r, n, "the value is too long");
    }
    if (n->type != YAML_SEQUENCE_NODE) return fault(r, n, "a key takes a value or a list of values");
    for (int i = 0; i < item_count(n); i++) {
        yaml_node_t *item = node(r, n->data.sequence.items.start[i]);
        if (!text_of(item)) return fault(r, item, "a list entry must be a single value");
        at += (size_t)snprintf(out + at, VALUE_TEXT - at, "%s%s", i ? "," : "[", text_of(item));
        if (at >= VALUE_TEXT - 2) return fault(r, n, "the list is too long");
    }
    snprintf(out + at, VALUE_TEXT - at, "%s", at ? "]" : "[]");
    return RESBM_OK;
}

/* The name of this entry, at *key, in the same map before it? */
static bool twice(reader *r, yaml_node_t *map, const yaml_node_pair_t *at) {
    const char *name = text_of(node(r, at->key));
    for (yaml_node_pair_t *q = map->data.mapping.pairs.start; q < at && name; q++)
        if (text_of(node(r, q->key)) && !strcmp(name, text_of(node(r, q->key)))) return true;
    return false;
}

static resbm_status once(reader *r, yaml_node_t *map, const yaml_node_pair_t *at) {
    return twice(r, map, at) ? fault(r, node(r, at->key), "this entry is there twice") : RESBM_OK;
}

static resbm_status add_override(reader *r, rb_overrides *o, const char *section, yaml_node_t *key,
                                 yaml_node_t *value) {
    char place[PLACE], text[VALUE_TEXT + 160], v[VALUE_TEXT];
    if (!text_of(key)) return fault(r, key, "a key must be a name");
    RB_TRY(value_text(r, value, v));
    snprintf(text, sizeof text, "%s%s%.80s=%s", section, *section ? "." : "", text_of(key), v);
    return rb_overrides_add(o, place_of(r, key, place), text, r->err);
}

static resbm_status add_map(reader *r, rb_overrides *o, yaml_node_t *map) {
    char section[80];
    for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top; p++) {
        yaml_node_t *key = node(r, p->key), *value = node(r, p->value);
        RB_TRY(once(r, map, p));
        if (value->type != YAML_MAPPING_NODE) {
            RB_TRY(add_override(r, o, "", key, value));
            continue;
        }
        if (!text_of(key)) return fault(r, key, "a section must be a name");
        snprintf(section, sizeof section, "%s", text_of(key));
        for (yaml_node_pair_t *q = value->data.mapping.pairs.start; q < value->data.mapping.pairs.top; q++) {
            RB_TRY(once(r, value, q));
            RB_TRY(add_override(r, o, section, node(r, q->key), node(r, q->value)));
        }
    }
    return RESBM_OK;
}

/* "a.b=1 c.d=2" */
static resbm_status add_words(reader *r, rb_overrides *o, yaml_node_t *n) {
    char place[PLACE], *rest = NULL, *copy = text_of(n) ? strdup(text_of(n)) : NULL;
    if (!copy) return fault(r, n, "a setting is section.key=value");
    resbm_status st = RESBM_OK;
    for (char *w = strtok_r(copy, " \t\n", &rest); w && !st; w = strtok_r(NULL, " \t\n", &rest))
        st = rb_overrides_add(o, place_of(r, n, place), w, r->err);
    free(copy);
    return st;
}

static resbm_status read_set(reader *r, rb_overrides *o, yaml_node_t *n) {
    if (n->type == YAML_MAPPING_NODE) return add_map(r, o, n);
    if (n->type == YAML_SCALAR_NODE) return add_words(r, o, n);
    for (int i = 0; i < item_count(n); i++) RB_TRY(add_words(r, o, node(r, n->data.sequence.items.start[i])));
    return RESBM_OK;
}

static resbm_status read_sweep(reader *r, rb_compare_variant *v, yaml_node_t *n) {
    const char *value[RB_COMPARE_POINTS];
    char place[PLACE];
    if (n->type != YAML_MAPPING_NODE) return fault(r, n, "a sweep is a map: {optim.lr: [0.01, 0.02]}");
    for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        yaml_node_t *key = node(r, p->key), *list = node(r, p->value);
        int count = item_count(list);
        if (!text_of(key)) return fault(r, key, "a sweep's key must be a name");
        for (int i = 0; i < count && i < RB_COMPARE_POINTS; i++) {
            value[i] = text_of(node(r, list->data.sequence.items.start[i]));
            if (!value[i]) return fault(r, list, "a sweep's values must be single values");
        }
        RB_TRY(rb_compare_set_sweep(v, text_of(key), value, count, place_of(r, key, place), r->err));
    }
    return RESBM_OK;
}

static resbm_status unknown(reader *r, const yaml_node_t *key, const char *what, const char *words) {
    char hint[300], text[420];
    rb_compare_hint(text_of(key) ? text_of(key) : "", words, hint, sizeof hint);
    snprintf(text, sizeof text, "unknown %s '%.60s'%s", what, text_of(key) ? text_of(key) : "?", hint);
    return fault(r, key, text);
}

static resbm_status read_variant_key(reader *r, rb_compare_variant *v, yaml_node_t *key, yaml_node_t *value) {
    char place[PLACE];
    const char *name = text_of(key) ? text_of(key) : "", *text = text_of(value);
    if (!strcmp(name, "set")) return read_set(r, &v->set, value);
    if (!strcmp(name, "sweep")) return read_sweep(r, v, value);
    if (!strcmp(name, "control") && text)
        return rb_compare_set_control(v, text, place_of(r, value, place), r->err);
    if (strcmp(name, "like") || !text) return unknown(r, key, "entry of a variant", "set|sweep|control|like");
    snprintf(v->like, sizeof v->like, "%s", text);
    return RESBM_OK;
}

/* A map of nothing but settings is a set itself. */
static bool is_plain_set(reader *r, yaml_node_t *n) {
    for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++) {
        const char *name = text_of(node(r, p->key));
        if (!name || (!strchr(name, '.') && !rb_section_exists(name))) return false;
    }
    return true;
}

static resbm_status read_variant(reader *r, yaml_node_t *key, yaml_node_t *value) {
    char place[PLACE];
    rb_compare_variant *v;
    RB_TRY(
        rb_compare_new_variant(r->s, text_of(key) ? text_of(key) : "", place_of(r, key, place), &v, r->err));
    if (value->type != YAML_MAPPING_NODE || is_plain_set(r, value)) return read_set(r, &v->set, value);
    for (yaml_node_pair_t *p = value->data.mapping.pairs.start; p < value->data.mapping.pairs.top; p++) {
        RB_TRY(once(r, value, p));
        RB_TRY(read_variant_key(r, v, node(r, p->key), node(r, p->value)));
    }
    return RESBM_OK;
}

static resbm_status read_variants(reader *r, yaml_node_t *n) {
    if (n->type != YAML_MAPPING_NODE) return fault(r, n, "variants is a map of names");
    for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++)
        RB_TRY(read_variant(r, node(r, p->key), node(r, p->value)));
    return RESBM_OK;
}

static resbm_status read_number(reader *r, yaml_node_t *n, double lo, double hi, bool whole, double *out) {
    char text[160], *end = NULL;
    const char *t = text_of(n);
    double v = t ? strtod(t, &end) : 0;
    if (t && *t && !*end && v >= lo && v <= hi && (!whole || v == floor(v))) {
        *out = v;
        return RESBM_OK;
    }
    snprintf(text, sizeof text, "'%.40s': a %snumber from %g to %g", t ? t : "?", whole ? "whole " : "", lo,
             hi);
    return fault(r, n, text);
}

static resbm_status read_seeds(reader *r, yaml_node_t *n) {
    double v;
    if (n->type == YAML_SCALAR_NODE) {
        RB_TRY(read_number(r, n, 1, RB_COMPARE_SEEDS, true, &v));
        rb_compare_spec_seeds(r->s, (int)v);
        return RESBM_OK;
    }
    if (item_count(n) < 1 || item_count(n) > RB_COMPARE_SEEDS)
        return fault(r, n, "seeds: a count, or a list of 1 to 64 seeds");
    r->s->seeds = 0;
    for (int i = 0; i < item_count(n); i++) {
        yaml_node_t *item = node(r, n->data.sequence.items.start[i]);
        RB_TRY(read_number(r, item, 0, 9007199254740992.0, true, &v));
        for (int j = 0; j < i; j++)
            if (r->s->seed[j] == (uint64_t)v) return fault(r, item, "this seed is in the list already");
        r->s->seed[r->s->seeds++] = (uint64_t)v;
    }
    return RESBM_OK;
}

static resbm_status read_links(reader *r, yaml_node_t *n) {
    char place[PLACE];
    if (text_of(n)) return rb_compare_spec_add_link(r->s, text_of(n), place_of(r, n, place), r->err);
    for (int i = 0; i < item_count(n); i++) {
        yaml_node_t *item = node(r, n->data.sequence.items.start[i]);
        if (!text_of(item)) return fault(r, item, "a link is RATE or RATE/LATENCY");
        RB_TRY(rb_compare_spec_add_link(r->s, text_of(item), place_of(r, item, place), r->err));
    }
    return n->type == YAML_SEQUENCE_NODE ? RESBM_OK : fault(r, n, "links is a list: [80mbit/20ms, 8mbit]");
}

/* measured, or 50gflops */
static resbm_status read_compute(reader *r, yaml_node_t *n) {
    static const struct {
        const char *unit;
        double factor;
    } units[] = {{"gflops", 1e9}, {"tflops", 1e12}, {"mflops", 1e6}};
    const char *t = text_of(n) ? text_of(n) : "";
    char *end;
    double v = strtod(t, &end);
    r->s->flops = 0;
    if (!strcmp(t, "measured")) return RESBM_OK;
    for (int i = 0; i < 3 && v > 0 && isfinite(v); i++)
        if (!strcmp(end, units[i].unit)) r->s->flops = v * units[i].factor;
    return r->s->flops > 0 ? RESBM_OK
                           : fault(r, n, "compute is 'measured' or a rate of one stage like 50gflops");
}

static resbm_status read_base(reader *r, yaml_node_t *n) {
    const char *t = text_of(n), *slash = strrchr(r->name, '/');
    if (n->type == YAML_MAPPING_NODE) return add_map(r, &r->s->base_set, n);
    if (!t || !*t) return fault(r, n, "base is the path of a run configuration, or a map of its sections");
    int head = *t == '/' || !slash ? 0 : (int)(slash - r->name) + 1;
    if (snprintf(r->s->base, sizeof r->s->base, "%.*s%s", head, r->name, t) >= (int)sizeof r->s->base)
        return fault(r, n, "the path is too long");
    return RESBM_OK;
}

static const char top_words[] =
    "base|set|deploy|seeds|target|links|compute|sweep_share|extend_sweeps|longest|variants";

static resbm_status read_top(reader *r, yaml_node_t *key, yaml_node_t *value) {
    char place[PLACE];
    double v;
    const char *name = text_of(key) ? text_of(key) : "";
    if (!strcmp(name, "base")) return read_base(r, value);
    if (!strcmp(name, "set")) return read_set(r, &r->s->set, value);
    if (!strcmp(name, "deploy")) return read_set(r, &r->s->deploy, value);
    if (!strcmp(name, "seeds")) return read_seeds(r, value);
    if (!strcmp(name, "target"))
        return rb_compare_spec_target(r->s, text_of(value) ? text_of(value) : "", place_of(r, value, place),
                                      r->err);
    if (!strcmp(name, "links")) return read_links(r, value);
    if (!strcmp(name, "compute")) return read_compute(r, value);
    if (!strcmp(name, "sweep_share")) return read_number(r, value, 0.01, 1, false, &r->s->sweep_share);
    if (!strcmp(name, "longest")) return read_number(r, value, 1, 1000, false, &r->s->longest);
    if (!strcmp(name, "variants")) return read_variants(r, value);
    if (strcmp(name, "extend_sweeps")) return unknown(r, key, "entry", top_words);
    RB_TRY(read_number(r, value, 0, RB_COMPARE_POINTS / 2, true, &v));
    r->s->extend_sweeps = (int)v;
    return RESBM_OK;
}

/* A run configuration has sections at its top, a specification never does. */
static bool is_run_configuration(reader *r, yaml_node_t *root) {
    for (yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top; p++) {
        const char *name = text_of(node(r, p->key));
        if (name && (rb_section_exists(name) || rb_key_find("", name))) return true;
    }
    return false;
}

static resbm_status read_root(reader *r) {
    yaml_node_t *root = yaml_document_get_root_node(&r->doc);
    if (!root || root->type != YAML_MAPPING_NODE)
        return rb_fail(r->err, RESBM_E_CONFIG, "%s: a comparison is a map (base:, variants:, ...)", r->name);
    if (is_run_configuration(r, root)) {
        snprintf(r->s->base, sizeof r->s->base, "%s", r->name);
        return RESBM_OK;
    }
    for (yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top; p++) {
        RB_TRY(once(r, root, p));
        RB_TRY(read_top(r, node(r, p->key), node(r, p->value)));
    }
    return RESBM_OK;
}

resbm_status rb_compare_spec_parse(rb_compare_spec *s, const char *name, const char *text, size_t len,
                                   rb_err *err) {
    yaml_parser_t parser;
    reader r = {.s = s, .name = name, .err = err};
    *s = (rb_compare_spec){.target = NAN, .sweep_share = 1, .longest = 4};
    rb_compare_spec_seeds(s, 3);
    snprintf(s->file, sizeof s->file, "%s", name);
    if (!yaml_parser_initialize(&parser)) return rb_fail(err, RESBM_E_MEMORY, "no memory to read %s", name);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    resbm_status st = RESBM_OK;
    if (!yaml_parser_load(&parser, &r.doc)) {
        st = rb_fail(err, RESBM_E_CONFIG, "%s:%zu:%zu: no valid YAML: %s", name, parser.problem_mark.line + 1,
                     parser.problem_mark.column + 1, parser.problem ? parser.problem : "?");
    } else {
        st = read_root(&r);
        yaml_document_delete(&r.doc);
    }
    yaml_parser_delete(&parser);
    return st;
}

resbm_status rb_compare_spec_load(rb_compare_spec *s, const char *path, rb_err *err) {
    rb_buf text = {0};
    *s = (rb_compare_spec){0};
    resbm_status st = rb_read_file(path, RB_CONFIG_FILE_LIMIT, &text, err);
    if (!st) st = rb_compare_spec_parse(s, path, text.data ? text.data : "", text.len, err);
    rb_buf_free(&text);
    return st;
}
