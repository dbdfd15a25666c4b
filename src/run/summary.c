#include "run/summary.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/buf.h"
#include "run/metrics_json.h"

enum { FILE_LIMIT = 1 << 24 };

static void member(rb_buf *b, const char *key, double value, int digits) {
    rb_buf_printf(b, "  \"%s\": ", key);
    rb_json_number(b, value, digits);
    rb_buf_puts(b, ",\n");
}

static void print_links(rb_buf *b, const rb_summary *s) {
    rb_buf_puts(b, "  \"links\": [");
    for (int i = 0; i < s->links; i++) {
        const rb_link_bytes *l = &s->link[i];
        rb_buf_printf(b, "%s\n    {\"from\": %d, \"to\": %d, \"up_bits\": ", i ? "," : "", l->from, l->to);
        rb_json_number(b, l->up_bits, 9);
        rb_buf_printf(b,
                      ", \"activations\": %" PRIu64 ", \"gradients\": %" PRIu64 ", \"tokens\": %" PRIu64
                      ", \"sync\": %" PRIu64 ", \"snapshots\": %" PRIu64 ", \"control\": %" PRIu64 "}",
                      l->activations, l->gradients, l->tokens, l->sync, l->snapshots, l->control);
    }
    rb_buf_puts(b, s->links ? "\n  ]\n}\n" : "]\n}\n");
}

static void print_memory(rb_buf *b, const rb_summary *s) {
    rb_buf_puts(b, "  \"memory\": [");
    for (int i = 0; s->memory && i < s->stages; i++) {
        const rb_memory_bytes *m = &s->memory[i];
        rb_buf_printf(b,
                      "%s\n    {\"weights\": %" PRIu64 ", \"gradients\": %" PRIu64 ", \"states\": %" PRIu64
                      ", \"windows\": %" PRIu64 ", \"scratch\": %" PRIu64 ", \"activations\": %" PRIu64
                      ", \"disk_read\": %" PRIu64 ", \"disk_written\": %" PRIu64 ", \"disk_wait_s\": ",
                      i ? "," : "", m->weights, m->gradients, m->states, m->windows, m->scratch,
                      m->activations, m->read, m->written);
        rb_json_number(b, (double)m->waited_ns * 1e-9, 6);
        rb_buf_printf(b,
                      ", \"host\": %" PRIu64 ", \"host_down\": %" PRIu64 ", \"host_up\": %" PRIu64
                      ", \"host_early\": %" PRIu64 ", \"host_wait_s\": ",
                      m->host, m->down, m->up, m->early);
        rb_json_number(b, (double)m->host_waited_ns * 1e-9, 6);
        rb_buf_printf(b, ", \"taken\": %" PRIu64 "}", m->taken);
    }
    rb_buf_puts(b, s->memory && s->stages ? "\n  ],\n" : "],\n");
}

static void print_attention(rb_buf *b, const rb_summary *s) {
    bool any = false;
    for (int i = 0; s->attention && i < s->stages; i++) any = any || s->attention[i];
    for (int i = 0; any && i < s->stages; i++) {
        json_t *text = json_string(s->attention[i] ? s->attention[i] : "own");
        char *quoted = text ? json_dumps(text, JSON_ENCODE_ANY) : NULL;
        rb_buf_printf(b, "%s%s", i ? ",\n    " : "  \"attention\": [\n    ", quoted ? quoted : "null");
        free(quoted);
        json_decref(text);
    }
    if (any) rb_buf_puts(b, "\n  ],\n");
}

static void print_summary(rb_buf *b, const rb_summary *s) {
    rb_buf_puts(b, "{\n");
    member(b, "val_loss", s->val_loss, 9);
    member(b, "val_ppl", exp(s->val_loss), 9);
    member(b, "val_bpb", s->val_bpb, 9);
    rb_buf_printf(b, "  \"steps\": %" PRId64 ",\n  \"tokens\": %" PRId64 ",\n", s->steps, s->tokens);
    member(b, "tokens_per_s", s->tokens_per_s, 6);
    member(b, "step_s", s->step_s, 6);
    member(b, "bytes_per_token_fwd", s->bytes_per_token_fwd, 9);
    member(b, "bytes_per_token_bwd", s->bytes_per_token_bwd, 9);
    member(b, "ratio", s->ratio, 6);
    member(b, "wire_ratio", s->wire_ratio, 6);
    rb_buf_puts(b, "  \"peak_rss_bytes\": [");
    for (int i = 0; i < s->stages; i++) rb_buf_printf(b, "%s%" PRIu64, i ? ", " : "", s->peak_rss_bytes[i]);
    rb_buf_puts(b, "],\n");
    print_memory(b, s);
    print_attention(b, s);
    for (int i = 0; s->staleness && i < s->stages; i++) {
        rb_buf_puts(b, i ? ", " : "  \"staleness\": [");
        rb_json_number(b, s->staleness[i], 6);
    }
    if (s->staleness) rb_buf_puts(b, "],\n");
    member(b, "bubble", s->bubble, 6);
    rb_buf_printf(b, "  \"params\": %" PRIu64 ",\n", s->params);
    if (s->delay) rb_buf_printf(b, "  \"delay\": %d,\n", s->delay);
    rb_buf_printf(b, "  \"boundary\": \"%s\",\n  \"codec_fwd\": \"%s\",\n  \"codec_bwd\": \"%s\",\n",
                  s->boundary, s->codec_fwd, s->codec_bwd);
    member(b, "token_bytes_per_token", s->token_bytes_per_token, 9);
    member(b, "time_s", s->time_s, 9);
    member(b, "start_s", s->start_s, 6);
    member(b, "first_step_s", s->first_step_s, 6);
    print_links(b, s);
}

resbm_status rb_summary_write(const char *path, const rb_summary *s, rb_err *err) {
    rb_buf text = {0};
    print_summary(&text, s);
    resbm_status st = rb_buf_status(&text, err);
    if (st == RESBM_OK) st = rb_write_file_atomic(path, text.data, text.len, err);
    rb_buf_free(&text);
    return st;
}

static uint64_t get_u64(const json_t *o, const char *key) {
    json_int_t v = json_integer_value(json_object_get(o, key));
    return v < 0 ? 0 : (uint64_t)v;
}

static void get_name(const json_t *o, const char *key, char out[16]) {
    const char *s = json_string_value(json_object_get(o, key));
    if (s) strncpy(out, s, 15);
}

static resbm_status get_arrays(const json_t *root, rb_summary *s, rb_err *err) {
    const json_t *rss = json_object_get(root, "peak_rss_bytes"), *links = json_object_get(root, "links");
    size_t stages = json_array_size(rss), count = json_array_size(links);
    if (stages > RB_SUMMARY_MAX_STAGES || count > RB_SUMMARY_MAX_LINKS)
        return rb_fail(err, RESBM_E_FORMAT, "%zu stages and %zu links are more than a run can have", stages,
                       count);
    s->peak_rss_bytes = calloc(stages + 1, sizeof *s->peak_rss_bytes);
    s->link = calloc(count + 1, sizeof *s->link);
    if (!s->peak_rss_bytes || !s->link) return rb_fail(err, RESBM_E_MEMORY, "no memory for a summary");
    s->stages = (int)stages;
    s->links = (int)count;
    for (size_t i = 0; i < stages; i++)
        s->peak_rss_bytes[i] = (uint64_t)json_integer_value(json_array_get(rss, i));
    for (size_t i = 0; i < count; i++) {
        const json_t *o = json_array_get(links, i);
        s->link[i] = (rb_link_bytes){
            .from = (int)json_integer_value(json_object_get(o, "from")),
            .to = (int)json_integer_value(json_object_get(o, "to")),
            .up_bits = rb_json_get(o, "up_bits"),
            .activations = get_u64(o, "activations"),
            .gradients = get_u64(o, "gradients"),
            .tokens = get_u64(o, "tokens"),
            .sync = get_u64(o, "sync"),
            .snapshots = get_u64(o, "snapshots"),
            .control = get_u64(o, "control"),
        };
    }
    return RESBM_OK;
}

static void get_scalars(const json_t *root, rb_summary *s) {
    s->val_loss = rb_json_get(root, "val_loss");
    s->val_bpb = rb_json_get(root, "val_bpb");
    s->steps = json_integer_value(json_object_get(root, "steps"));
    s->tokens = json_integer_value(json_object_get(root, "tokens"));
    s->tokens_per_s = rb_json_get(root, "tokens_per_s");
    s->step_s = rb_json_get(root, "step_s");
    s->bytes_per_token_fwd = rb_json_get(root, "bytes_per_token_fwd");
    s->bytes_per_token_bwd = rb_json_get(root, "bytes_per_token_bwd");
    s->token_bytes_per_token = rb_json_get(root, "token_bytes_per_token");
    s->ratio = rb_json_get(root, "ratio");
    s->wire_ratio = rb_json_get(root, "wire_ratio");
    s->bubble = rb_json_get(root, "bubble");
    s->params = get_u64(root, "params");
    s->delay = (int)get_u64(root, "delay");
    s->time_s = rb_json_get(root, "time_s");
    s->start_s = rb_json_get(root, "start_s");
    s->first_step_s = rb_json_get(root, "first_step_s");
    get_name(root, "boundary", s->boundary);
    get_name(root, "codec_fwd", s->codec_fwd);
    get_name(root, "codec_bwd", s->codec_bwd);
}

resbm_status rb_summary_read(const char *path, rb_summary *out, rb_err *err) {
    *out = (rb_summary){0};
    rb_buf text = {0};
    RB_TRY(rb_read_file(path, FILE_LIMIT, &text, err));
    json_error_t fault;
    json_t *root = json_loadb(text.data ? text.data : "", text.len, 0, &fault);
    resbm_status st = RESBM_OK;
    if (!json_is_object(root))
        st = rb_fail(err, RESBM_E_FORMAT, "%s: line %d: %s", path, root ? 1 : fault.line,
                     root ? "not an object" : fault.text);
    if (st == RESBM_OK) {
        get_scalars(root, out);
        st = get_arrays(root, out, err);
        if (st != RESBM_OK) rb_err_context(err, st, "%s: ", path);
    }
    json_decref(root);
    rb_buf_free(&text);
    if (st != RESBM_OK) rb_summary_free(out);
    return st;
}

void rb_summary_free(rb_summary *s) {
    free(s->peak_rss_bytes);
    free(s->link);
    s->peak_rss_bytes = NULL;
    s->link = NULL;
    s->stages = s->links = 0;
}
