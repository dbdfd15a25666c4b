/* YAML into rb_config, by libyaml's events: sections of keys, each with a scalar or a list of scalars.
 * Anything deeper, aliases and second documents are refused. */
#include "run/keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

typedef struct loader {
    rb_config *c;
    yaml_parser_t parser;
    yaml_event_t event;
    bool have_event;
    const char *name; /* of the file */
    const char *text; /* (len) what is in it */
    size_t len;
    bool seen[RB_MAX_KEYS];
    rb_err *err;
} loader;

enum { MAX_ITEMS = RB_MAX_SEGMENTS };

typedef struct value {
    char *item[MAX_ITEMS];
    int n;
    bool list;
} value;

static resbm_status fault_at(loader *l, yaml_mark_t m, const char *text) {
    return rb_fail(l->err, RESBM_E_CONFIG, "%s:%zu:%zu: %s", l->name, m.line + 1, m.column + 1, text);
}

/* Does the line of a mark begin with a tab among its blanks? libyaml has three other names for that. */
static bool begins_with_tab(const loader *l, yaml_mark_t m) {
    const char *p = l->text, *end = l->text + l->len;
    for (size_t line = 0; line < m.line && p < end; line++) {
        const char *next_line = memchr(p, '\n', (size_t)(end - p));
        p = next_line ? next_line + 1 : end;
    }
    while (p < end && *p == ' ') p++;
    return p < end && *p == '\t';
}

static resbm_status syntax_fault(loader *l) {
    const yaml_parser_t *p = &l->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return rb_fail(l->err, RESBM_E_MEMORY, "no memory to read %s", l->name);
    char text[512];
    snprintf(text, sizeof text, "no valid YAML: %s%s%s", p->problem ? p->problem : "?",
             p->context ? ", " : "", p->context ? p->context : "");
    yaml_mark_t m = p->problem_mark;
    if (p->error == YAML_READER_ERROR)
        return rb_fail(l->err, RESBM_E_CONFIG, "%s: byte %zu: %s", l->name, p->problem_offset, text);
    if (begins_with_tab(l, m)) return fault_at(l, m, "the line begins with a tab: YAML indents with blanks");
    return fault_at(l, m, text);
}

static resbm_status next(loader *l) {
    if (l->have_event) yaml_event_delete(&l->event);
    l->have_event = false;
    if (!yaml_parser_parse(&l->parser, &l->event)) return syntax_fault(l);
    l->have_event = true;
    return l->event.type == YAML_ALIAS_EVENT
               ? fault_at(l, l->event.start_mark, "aliases (*name) are not supported")
               : RESBM_OK;
}

static const char *text_of(const yaml_event_t *e) {
    return (const char *)e->data.scalar.value;
}

/* The scalar as C text: no NUL inside, and `key:` with nothing behind it is a slip, not an empty string. */
static resbm_status check_scalar(loader *l, const char *what) {
    const yaml_event_t *e = &l->event;
    char text[256];
    if (strlen(text_of(e)) != e->data.scalar.length)
        return fault_at(l, e->start_mark, "a NUL character in a value");
    if (e->data.scalar.length || e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE) return RESBM_OK;
    snprintf(text, sizeof text, "%s has no value", what);
    return fault_at(l, e->start_mark, text);
}

static resbm_status add_item(loader *l, value *v, const char *what) {
    RB_TRY(check_scalar(l, what));
    if (v->n == MAX_ITEMS) return fault_at(l, l->event.start_mark, "the list has more than 1024 entries");
    v->item[v->n] = strdup(text_of(&l->event));
    if (!v->item[v->n]) return rb_fail(l->err, RESBM_E_MEMORY, "no memory to read %s", l->name);
    v->n++;
    return RESBM_OK;
}

/* The current event begins a value; afterwards the current event is its last one. */
static resbm_status read_value(loader *l, value *v, const char *what) {
    char text[256];
    if (l->event.type == YAML_SCALAR_EVENT) return add_item(l, v, what);
    snprintf(text, sizeof text, "%s takes a value or a list of values, not a map", what);
    if (l->event.type != YAML_SEQUENCE_START_EVENT) return fault_at(l, l->event.start_mark, text);
    v->list = true;
    for (;;) {
        RB_TRY(next(l));
        if (l->event.type == YAML_SEQUENCE_END_EVENT) return RESBM_OK;
        snprintf(text, sizeof text, "%s: a list entry must be a single value", what);
        if (l->event.type != YAML_SCALAR_EVENT) return fault_at(l, l->event.start_mark, text);
        RB_TRY(add_item(l, v, what));
    }
}

static void free_value(value *v) {
    for (int i = 0; i < v->n; i++) free(v->item[i]);
}

static resbm_status load_value(loader *l, const rb_key *k) {
    char name[64], place[320];
    int32_t line = (int32_t)l->event.start_mark.line + 1;
    snprintf(place, sizeof place, "%s:%d:%zu", l->name, line, l->event.start_mark.column + 1);
    value *v = calloc(1, sizeof *v);
    if (!v) return rb_fail(l->err, RESBM_E_MEMORY, "no memory to read %s", l->name);
    resbm_status st = read_value(l, v, rb_key_name(k, name));
    if (st == RESBM_OK) st = rb_key_set(l->c, k, (const char *const *)v->item, v->n, v->list, place, l->err);
    free_value(v);
    free(v);
    if (st == RESBM_OK) l->c->line[k - rb_keys] = line;
    return st;
}

/* The current event is a key's name. */
static resbm_status load_key(loader *l, const char *section) {
    char text[900];
    if (l->event.type != YAML_SCALAR_EVENT) return fault_at(l, l->event.start_mark, "a key must be a name");
    const rb_key *k = rb_key_find(section, text_of(&l->event));
    if (!k) {
        rb_key_unknown(section, text_of(&l->event), text, sizeof text);
        return fault_at(l, l->event.start_mark, text);
    }
    snprintf(text, sizeof text, "key '%s' is given twice in section %s (first in line %d)", k->name, section,
             l->c->line[k - rb_keys]);
    if (l->seen[k - rb_keys]) return fault_at(l, l->event.start_mark, text);
    l->seen[k - rb_keys] = true;
    RB_TRY(next(l));
    return load_value(l, k);
}

static resbm_status load_section(loader *l, const char *section) {
    char text[256];
    snprintf(text, sizeof text, "section %s must hold keys (%s: {key: value} or indented lines)", section,
             section);
    if (l->event.type != YAML_MAPPING_START_EVENT) return fault_at(l, l->event.start_mark, text);
    for (;;) {
        RB_TRY(next(l));
        if (l->event.type == YAML_MAPPING_END_EVENT) return RESBM_OK;
        RB_TRY(load_key(l, section));
    }
}

/* Position of the section's first key: where `twice` is remembered. */
static resbm_status enter_section(loader *l, const char *name, char out[64], bool *entered) {
    char text[900];
    if (!rb_section_exists(name)) {
        rb_section_unknown(name, text, sizeof text);
        return fault_at(l, l->event.start_mark, text);
    }
    int i = 0;
    while (strcmp(rb_keys[i].section, name)) i++;
    snprintf(text, sizeof text, "section %s is given twice", name);
    if (entered[i]) return fault_at(l, l->event.start_mark, text);
    entered[i] = true;
    snprintf(out, 64, "%s", name);
    return RESBM_OK;
}

static resbm_status load_top(loader *l) {
    bool entered[RB_MAX_KEYS] = {0};
    char section[64];
    if (l->event.type != YAML_MAPPING_START_EVENT)
        return fault_at(l, l->event.start_mark, "a configuration is a map of sections (model:, data:, ...)");
    for (;;) {
        RB_TRY(next(l));
        if (l->event.type == YAML_MAPPING_END_EVENT) return RESBM_OK;
        if (l->event.type != YAML_SCALAR_EVENT)
            return fault_at(l, l->event.start_mark, "a section must be a name");
        if (rb_key_find("", text_of(&l->event))) {
            RB_TRY(load_key(l, ""));
            continue;
        }
        RB_TRY(enter_section(l, text_of(&l->event), section, entered));
        RB_TRY(next(l));
        RB_TRY(load_section(l, section));
    }
}

static resbm_status load_stream(loader *l) {
    RB_TRY(next(l)); /* stream start */
    RB_TRY(next(l));
    if (l->event.type == YAML_STREAM_END_EVENT) return RESBM_OK; /* nothing but comments: all defaults */
    RB_TRY(next(l));
    RB_TRY(load_top(l));
    RB_TRY(next(l)); /* document end */
    RB_TRY(next(l));
    return l->event.type == YAML_STREAM_END_EVENT
               ? RESBM_OK
               : fault_at(l, l->event.start_mark, "a second document (---): one configuration per file");
}

resbm_status rb_config_load_text(rb_config *c, const char *name, const char *text, size_t len, rb_err *err) {
    if (len > RB_CONFIG_FILE_LIMIT)
        return rb_fail(err, RESBM_E_CONFIG, "%s has %zu bytes; a configuration may have %d", name, len,
                       RB_CONFIG_FILE_LIMIT);
    loader l = {.c = c, .name = name, .text = text, .len = len, .err = err};
    if (!yaml_parser_initialize(&l.parser)) return rb_fail(err, RESBM_E_MEMORY, "no memory to read %s", name);
    snprintf(c->file, sizeof c->file, "%s", name);
    yaml_parser_set_input_string(&l.parser, (const unsigned char *)text, len);
    resbm_status st = load_stream(&l);
    if (l.have_event) yaml_event_delete(&l.event);
    yaml_parser_delete(&l.parser);
    return st;
}

resbm_status rb_config_load_file(rb_config *c, const char *path, rb_err *err) {
    rb_buf text = {0};
    resbm_status st = rb_read_file(path, RB_CONFIG_FILE_LIMIT, &text, err);
    if (st == RESBM_E_FORMAT) st = err ? (err->code = RESBM_E_CONFIG) : RESBM_E_CONFIG;
    if (st == RESBM_OK) st = rb_config_load_text(c, path, text.data, text.len, err);
    rb_buf_free(&text);
    return st;
}
