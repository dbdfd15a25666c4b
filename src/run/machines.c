#include "run/machines.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>
#include "core/buf.h"
#include "run/keys.h"

#define FIELD(member) .offset = offsetof(rb_machine, member), .size = sizeof(((rb_machine *)0)->member)

static const rb_key machine_keys[] = {
    {.section = "machines",
     .name = "count",
     .type = RB_KEY_INT,
     FIELD(count),
     .min = 1,
     .max = RB_MAX_STAGES},
    {.section = "machines", .name = "flops", .type = RB_KEY_REAL, FIELD(flops), .min = 1, .max = 1e18},
    {.section = "machines",
     .name = "memory",
     .type = RB_KEY_SIZE,
     FIELD(memory),
     .min = 1 << 20,
     .max = 0x1p50},
    {.section = "machines", .name = "disk", .type = RB_KEY_SIZE, FIELD(disk), .min = 1, .max = 0x1p50},
    {.section = "machines",
     .name = "up",
     .type = RB_KEY_RATE,
     FIELD(up_bits),
     .min = 1e3,
     .max = 1e12,
     .word = "none"},
    {.section = "machines",
     .name = "down",
     .type = RB_KEY_RATE,
     FIELD(down_bits),
     .min = 1e3,
     .max = 1e12,
     .word = "none"},
    {.section = "machines", .name = "latency", .type = RB_KEY_DURATION, FIELD(latency_ns), .max = 3600e9},
    {.section = "machines", .name = "jitter", .type = RB_KEY_DURATION, FIELD(jitter_ns), .max = 3600e9},
};
enum { MACHINE_KEYS = sizeof machine_keys / sizeof *machine_keys };

#define RELAY(member)                                                                                        \
    .section = "relay", .offset = offsetof(rb_relay, member), .size = sizeof(((rb_relay *)0)->member)

static const rb_key relay_keys[] = {
    {.name = "up", .type = RB_KEY_RATE, RELAY(up_bits), .min = 1e3, .max = 1e15, .word = "none"},
    {.name = "down", .type = RB_KEY_RATE, RELAY(down_bits), .min = 1e3, .max = 1e15, .word = "none"},
    {.name = "latency", .type = RB_KEY_DURATION, RELAY(latency_ns), .max = 3600e9},
    {.name = "message", .type = RB_KEY_DURATION, RELAY(message_ns), .max = 3600e9},
    {.name = "moves", .type = RB_KEY_SIZE, RELAY(moves), .min = 1, .max = 0x1p50},
    {.name = "memory", .type = RB_KEY_SIZE, RELAY(memory), .min = 1 << 20, .max = 0x1p50},
    {.name = "participant", .type = RB_KEY_SIZE, RELAY(participant), .min = 1, .max = 0x1p40},
};
enum { RELAY_KEYS = sizeof relay_keys / sizeof *relay_keys };

rb_machine rb_machine_of(const rb_config *c) {
    return (rb_machine){.count = 1,
                        .flops = c->pipeline.speed,
                        .memory = c->pipeline.memory,
                        .up_bits = c->link.up_bits,
                        .down_bits = c->link.down_bits,
                        .latency_ns = c->link.latency_ns,
                        .jitter_ns = c->link.jitter_ns};
}

typedef struct reader {
    const char *path;
    yaml_document_t doc;
    const yaml_node_t *unstated; /* the first entry without FLOP/s, of machine `unstated_at`; NULL: none */
    int unstated_at;
    bool stated; /* another one has them */
    rb_err *err;
} reader;

static resbm_status fault(reader *r, const yaml_node_t *n, const char *text) {
    return rb_fail(r->err, RESBM_E_CONFIG, "%s:%zu:%zu: %s", r->path, n->start_mark.line + 1,
                   n->start_mark.column + 1, text);
}

static const char *scalar(const yaml_node_t *n) {
    return n->type == YAML_SCALAR_NODE ? (const char *)n->data.scalar.value : NULL;
}

/* What may be written of a machine, and of the relay. */
typedef struct form {
    const rb_key *key;
    int keys;
    const char *text, *unknown;
} form;

static const form machine_form = {
    machine_keys, MACHINE_KEYS, "a machine is written {flops: 28.4e12, memory: 24G, ...}",
    "a machine has no \"%.60s\": there are count, flops, memory, disk, up, down, latency and jitter"};
static const form relay_form = {
    relay_keys, RELAY_KEYS, "a relay is written {up: 1gbit, down: 1gbit, latency: 10ms, ...}",
    "a relay has no \"%.60s\": there are up, down, latency, message, moves, memory and participant"};

static resbm_status set_field(reader *r, const form *f, const yaml_node_t *key, const yaml_node_t *value,
                              void *out) {
    char place[320], text[256];
    double v;
    const char *name = scalar(key), *given = scalar(value);
    if (!name || !given) return fault(r, key, f->text);
    for (int i = 0; i < f->keys; i++) {
        const rb_key *k = &f->key[i];
        if (strcmp(k->name, name)) continue;
        snprintf(place, sizeof place, "%s:%zu:%zu", r->path, value->start_mark.line + 1,
                 value->start_mark.column + 1);
        RB_TRY(rb_key_read_number(k, given, &v, place, r->err));
        bool real = k->type == RB_KEY_REAL || k->type == RB_KEY_RATE;
        if (real)
            memcpy((char *)out + k->offset, &v, sizeof v);
        else
            memcpy((char *)out + k->offset, &(int64_t){(int64_t)v}, sizeof(int64_t));
        return RESBM_OK;
    }
    snprintf(text, sizeof text, f->unknown, name);
    return fault(r, key, text);
}

static resbm_status read_fields(reader *r, const form *f, yaml_node_t *n, void *out) {
    if (n->type != YAML_MAPPING_NODE) return fault(r, n, f->text);
    for (yaml_node_pair_t *p = n->data.mapping.pairs.start; p < n->data.mapping.pairs.top; p++)
        RB_TRY(set_field(r, f, yaml_document_get_node(&r->doc, p->key),
                         yaml_document_get_node(&r->doc, p->value), out));
    return RESBM_OK;
}

static resbm_status read_entry(reader *r, yaml_node_t *n, const rb_machine *from, int stages, int *filled,
                               rb_machine *out) {
    rb_machine m = *from;
    RB_TRY(read_fields(r, &machine_form, n, &m));
    if (m.flops > 0) {
        r->stated = true;
    } else if (!r->unstated) {
        r->unstated = n;
        r->unstated_at = *filled;
    }
    for (int64_t i = 0; i < m.count; i++, (*filled)++)
        if (*filled < stages) out[*filled] = m;
    return RESBM_OK;
}

/* The document's lists by name; false: there is something else in it. */
static bool find_parts(reader *r, yaml_node_t **machines, yaml_node_t **relay) {
    yaml_node_t *root = yaml_document_get_root_node(&r->doc);
    if (!root || root->type != YAML_MAPPING_NODE) return false;
    for (yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top; p++) {
        const char *name = scalar(yaml_document_get_node(&r->doc, p->key));
        yaml_node_t **part = !name                       ? NULL
                             : !strcmp(name, "machines") ? machines
                             : !strcmp(name, "relay")    ? relay
                                                         : NULL;
        if (!part || *part) return false;
        *part = yaml_document_get_node(&r->doc, p->value);
    }
    return *machines && (*machines)->type == YAML_SEQUENCE_NODE;
}

/* A plan counts by what is stated, or measures here what nobody states: seconds of the one and of the other are not to be mixed. */
static resbm_status check_speeds(reader *r) {
    char text[200];
    if (!r->stated || !r->unstated) return RESBM_OK;
    snprintf(text, sizeof text,
             "machine %d (from 0) has no flops, and others have: state them of every machine, or of those "
             "without by pipeline.speed=FLOP/s",
             r->unstated_at);
    return fault(r, r->unstated, text);
}

static resbm_status read_list(reader *r, const rb_machine *from, int stages, rb_machine *out, rb_relay *relay,
                              bool *relayed) {
    yaml_node_t *list = NULL, *server = NULL;
    int filled = 0;
    if (!find_parts(r, &list, &server))
        return rb_fail(r->err, RESBM_E_CONFIG,
                       "%s: must hold one list, \"machines:\", and may hold a \"relay:\"", r->path);
    for (yaml_node_item_t *i = list->data.sequence.items.start; i < list->data.sequence.items.top; i++)
        RB_TRY(read_entry(r, yaml_document_get_node(&r->doc, *i), from, stages, &filled, out));
    *relayed = server != NULL;
    if (server) RB_TRY(read_fields(r, &relay_form, server, relay));
    if (filled == stages) return check_speeds(r);
    return rb_fail(r->err, RESBM_E_CONFIG,
                   "%s lists %d machines for %d stages (with their replicas): change one of them", r->path,
                   filled, stages);
}

resbm_status rb_machines_load(const char *path, const rb_config *cfg, int stages, rb_machine *out,
                              rb_relay *relay, bool *relayed, rb_err *err) {
    rb_buf text = {0};
    reader r = {.path = path, .err = err};
    rb_machine from = rb_machine_of(cfg);
    *relay = (rb_relay){0};
    yaml_parser_t parser;
    RB_TRY(rb_read_file(path, RB_CONFIG_FILE_LIMIT, &text, err));
    if (!yaml_parser_initialize(&parser)) {
        rb_buf_free(&text);
        return rb_fail(err, RESBM_E_MEMORY, "no memory to read %s", path);
    }
    yaml_parser_set_input_string(&parser, (const unsigned char *)text.data, text.len);
    resbm_status st;
    if (yaml_parser_load(&parser, &r.doc)) {
        st = read_list(&r, &from, stages, out, relay, relayed);
        yaml_document_delete(&r.doc);
    } else {
        st = rb_fail(err, RESBM_E_CONFIG, "%s:%zu: no valid YAML: %s", path, parser.problem_mark.line + 1,
                     parser.problem ? parser.problem : "?");
    }
    yaml_parser_delete(&parser);
    rb_buf_free(&text);
    return st;
}
