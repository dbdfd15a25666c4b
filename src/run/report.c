#include "run/report.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/buf.h"
#include "run/metrics_json.h"
#include "run/report_page.h"

/* A JSON string that may stand inside <script>: nothing in it can end the element. */
static void print_string(rb_buf *b, const char *s) {
    rb_buf_puts(b, "\"");
    for (const unsigned char *c = (const unsigned char *)s; *c; c++) {
        if (*c < 0x20 || *c == '"' || *c == '\\' || *c == '<' || *c == '>' || *c == '&')
            rb_buf_printf(b, "\\u%04x", *c);
        else
            rb_buf_add(b, c, 1);
    }
    rb_buf_puts(b, "\"");
}

static void member(rb_buf *b, const char *key, double value) {
    rb_buf_printf(b, ",\"%s\":", key);
    rb_json_number(b, value, 9);
}

static void print_steps(rb_buf *b, const rb_metrics *m) {
    size_t stride = m->count / RB_REPORT_STEPS + 1;
    rb_buf_puts(b, "\"steps\":[");
    for (size_t i = 0, n = 0; i < m->count; i++) {
        const rb_step_metrics *s = &m->steps[i];
        if (i % stride && isnan(s->val_loss) && i + 1 < m->count) continue;
        rb_buf_printf(b, "%s{\"step\":%" PRId64 ",\"tokens\":%" PRId64, n++ ? ",\n" : "\n", s->step,
                      s->tokens);
        member(b, "loss", s->loss);
        member(b, "val", s->val_loss);
        member(b, "time", s->time_s);
        rb_buf_puts(b, "}");
    }
    rb_buf_puts(b, "]");
}

static void print_links(rb_buf *b, const rb_summary *s) {
    rb_buf_puts(b, ",\"links\":[");
    for (int i = 0; i < s->links; i++) {
        const rb_link_bytes *l = &s->link[i];
        rb_buf_printf(b, "%s{\"from\":%d,\"to\":%d", i ? ",\n" : "\n", l->from, l->to);
        member(b, "up_bits", l->up_bits);
        rb_buf_printf(b,
                      ",\"activations\":%" PRIu64 ",\"gradients\":%" PRIu64 ",\"tokens\":%" PRIu64
                      ",\"sync\":%" PRIu64 ",\"snapshots\":%" PRIu64 ",\"control\":%" PRIu64 "}",
                      l->activations, l->gradients, l->tokens, l->sync, l->snapshots, l->control);
    }
    rb_buf_puts(b, "]");
}

static void print_summary(rb_buf *b, const rb_summary *s) {
    rb_buf_puts(b, "\"summary\":{\"boundary\":");
    print_string(b, s->boundary);
    rb_buf_puts(b, ",\"codec_fwd\":");
    print_string(b, s->codec_fwd);
    rb_buf_puts(b, ",\"codec_bwd\":");
    print_string(b, s->codec_bwd);
    member(b, "val_loss", s->val_loss);
    member(b, "val_ppl", exp(s->val_loss));
    member(b, "val_bpb", s->val_bpb);
    rb_buf_printf(b, ",\"steps\":%" PRId64 ",\"tokens\":%" PRId64 ",\"params\":%" PRIu64, s->steps, s->tokens,
                  s->params);
    if (s->delay) rb_buf_printf(b, ",\"delay\":%d", s->delay);
    member(b, "tokens_per_s", s->tokens_per_s);
    member(b, "step_s", s->step_s);
    member(b, "bytes_per_token_fwd", s->bytes_per_token_fwd);
    member(b, "bytes_per_token_bwd", s->bytes_per_token_bwd);
    member(b, "token_bytes_per_token", s->token_bytes_per_token);
    member(b, "ratio", s->ratio);
    member(b, "wire_ratio", s->wire_ratio);
    member(b, "bubble", s->bubble);
    member(b, "time_s", s->time_s);
    rb_buf_puts(b, ",\"peak_rss_bytes\":[");
    for (int i = 0; i < s->stages; i++) rb_buf_printf(b, "%s%" PRIu64, i ? "," : "", s->peak_rss_bytes[i]);
    rb_buf_puts(b, "]");
    print_links(b, s);
    rb_buf_puts(b, "}");
}

/* The first step whose events are drawn. */
static int64_t first_step(const rb_report_run *r) {
    int64_t last = 0;
    if (r->event_count <= RB_REPORT_EVENTS) return INT64_MIN;
    for (size_t i = 0; i < r->event_count; i++)
        if (r->events[i].step > last) last = r->events[i].step;
    return last - 1;
}

/* [stage, track, category, begin_us, duration_us, step, segment, microbatch, bytes, name] */
static void print_events(rb_buf *b, const rb_report_run *r) {
    int64_t from = first_step(r);
    size_t n = 0;
    rb_buf_puts(b, "\"events\":[");
    for (size_t i = 0; i < r->event_count; i++) {
        const rb_trace_event *e = &r->events[i];
        if (e->category == RB_TRACE_PREDICTED) continue;
        if (e->step < from) continue;
        rb_buf_printf(b, "%s[%d,%d,%d,%.1f,%.1f,%" PRId64 ",%d,%d,%" PRIu64 ",", n++ ? ",\n" : "\n", e->stage,
                      e->track, e->category, (double)e->begin_ns / 1e3,
                      (double)(e->end_ns - e->begin_ns) / 1e3, e->step, e->segment, e->microbatch, e->bytes);
        print_string(b, e->name);
        rb_buf_puts(b, "]");
    }
    rb_buf_puts(b, "]");
}

static void print_run(rb_buf *b, const rb_report_run *r) {
    rb_buf_puts(b, "{\"name\":");
    print_string(b, r->name);
    rb_buf_puts(b, ",\n");
    print_summary(b, r->summary);
    rb_buf_puts(b, ",\n\"config\":");
    print_string(b, r->config ? r->config : "");
    rb_buf_puts(b, ",\n");
    print_steps(b, r->metrics);
    rb_buf_puts(b, ",\n");
    print_events(b, r);
    rb_buf_puts(b, "}");
}

/* The page with `data` in its place. */
static resbm_status write_page(const char *path, const rb_buf *data, rb_err *err) {
    static const char mark[] = "<!--RB_DATA-->";
    const char *page = rb_report_page, *at = strstr(page, mark);
    if (!at) return rb_fail(err, RESBM_E_INTERNAL, "report_page.html has no place for data");
    RB_TRY(rb_buf_status(data, err));
    rb_buf b = {0};
    rb_buf_add(&b, page, (size_t)(at - page));
    rb_buf_add(&b, data->data, data->len);
    rb_buf_puts(&b, at + strlen(mark));
    resbm_status st = rb_buf_status(&b, err);
    if (st == RESBM_OK) st = rb_write_file_atomic(path, b.data, b.len, err);
    rb_buf_free(&b);
    return st;
}

resbm_status rb_report_write(const char *path, const rb_report_run *run, int runs, rb_err *err) {
    if (runs < 1 || runs > RB_REPORT_MAX_RUNS)
        return rb_fail(err, RESBM_E_ARG, "a report of %d runs; 1 to %d are possible", runs,
                       RB_REPORT_MAX_RUNS);
    rb_buf b = {0};
    rb_buf_puts(&b, "{\"runs\":[");
    for (int i = 0; i < runs; i++) {
        if (i) rb_buf_puts(&b, ",\n");
        print_run(&b, &run[i]);
    }
    rb_buf_puts(&b, "]}");
    resbm_status st = write_page(path, &b, err);
    rb_buf_free(&b);
    return st;
}

resbm_status rb_report_write_study(const char *path, const char *json, rb_err *err) {
    rb_buf b = {0};
    rb_buf_puts(&b, "{\"runs\":[],\"study\":");
    for (const char *c = json; *c;
         c++) { /* outside strings JSON has no '<', and inside nothing may end the element */
        if (*c == '<')
            rb_buf_puts(&b, "\\u003c");
        else
            rb_buf_add(&b, c, 1);
    }
    rb_buf_puts(&b, "}");
    resbm_status st = write_page(path, &b, err);
    rb_buf_free(&b);
    return st;
}
