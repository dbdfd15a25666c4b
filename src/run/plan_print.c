#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "run/devices.h"
#include "run/fit.h"
#include "run/plan.h"
#include "run/workers.h"

/* --- numbers for people ------------------------------------------------------------------------------------ */

static const char *scaled(double v, const char *unit, double step, char out[32]) {
    static const char prefix[] = " kMGTP";
    int i = 0;
    while (v >= 999.5 && i < 5) v /= step, i++;
    if (i)
        snprintf(out, 32, "%.3g %c%s%s", v, prefix[i], step > 1000 ? "i" : "", unit);
    else
        snprintf(out, 32, "%.3g %s", v, unit);
    return out;
}

static const char *bytes(double v, char out[32]) {
    return scaled(v, "B", 1024, out);
}

static const char *seconds(double v, char out[32]) {
    if (v >= 99.95)
        snprintf(out, 32, "%.0f s", v);
    else if (v >= 0.9995)
        snprintf(out, 32, "%.2f s", v);
    else
        snprintf(out, 32, "%.3g ms", v * 1e3);
    return out;
}

/* --- the head ---------------------------------------------------------------------------------------------- */

static bool alike(const rb_machine *a, const rb_machine *b) {
    return a->flops == b->flops && a->memory == b->memory && a->disk == b->disk && a->up_bits == b->up_bits &&
           a->down_bits == b->down_bits && a->latency_ns == b->latency_ns && a->jitter_ns == b->jitter_ns;
}

static void print_machine(const rb_machine *m, int n, rb_buf *out) {
    char a[32];
    rb_buf_printf(out, "  %d x", n);
    if (m->flops > 0) rb_buf_printf(out, " %s/s,", scaled(m->flops, "FLOP", 1000, a));
    if (m->memory) rb_buf_printf(out, " %s of memory,", bytes((double)m->memory, a));
    if (m->disk) rb_buf_printf(out, " disk %s/s,", bytes((double)m->disk, a));
    if (m->up_bits > 0)
        rb_buf_printf(out, " up %s/s,", scaled(m->up_bits, "bit", 1000, a));
    else
        rb_buf_puts(out, " up unlimited,");
    if (m->down_bits > 0)
        rb_buf_printf(out, " down %s/s,", scaled(m->down_bits, "bit", 1000, a));
    else
        rb_buf_puts(out, " down unlimited,");
    rb_buf_printf(out, " latency %g ms", (double)m->latency_ns * 1e-6);
    if (m->jitter_ns) rb_buf_printf(out, " and up to %g more", (double)m->jitter_ns * 1e-6);
    rb_buf_puts(out, "\n");
}

static void print_relay(const rb_relay *r, rb_buf *out) {
    char a[32], b[32];
    rb_buf_printf(out, "  through a relay: up %s, down %s, latency %g ms\n",
                  r->up_bits > 0 ? scaled(r->up_bits, "bit/s", 1000, a) : "unlimited",
                  r->down_bits > 0 ? scaled(r->down_bits, "bit/s", 1000, b) : "unlimited",
                  (double)r->latency_ns * 1e-6);
}

/* "[4, 4, 3]", where they are not all alike. */
static void print_segments(const rb_model_config *m, rb_buf *out) {
    bool same = true;
    for (int64_t i = 1; i < m->segments; i++) same = same && m->segment_layers[i] == m->segment_layers[0];
    if (same) return;
    rb_buf_puts(out, "  model.segments: [");
    for (int64_t i = 0; i < m->segments; i++)
        rb_buf_printf(out, "%s%" PRId64, i ? ", " : "", m->segment_layers[i]);
    rb_buf_puts(out, "]\n");
}

/* What a card makes of pipeline.math: auto is known when a stage opens on it, and memory follows from it. */
static void print_math(const rb_config *c, rb_buf *out) {
    char name[RB_DEVICE_NAME];
    bool gpu = false;
    for (int i = 0; i < c->pipeline.stages; i++) gpu = gpu || strstr(rb_device_of_stage(c, i, name), "cuda");
    if (gpu && c->pipeline.math == RB_MATH_AUTO)
        rb_buf_puts(out, "  memory of GPU stages is planned for products in bf16; for cards of compute "
                         "capability 7.5, where more is taken, add pipeline.math=f16\n");
}

static void print_head(const rb_plan_options *o, const rb_run_plan *p, rb_buf *out) {
    const rb_config *c = o->cfg;
    char a[32];
    int stages = rb_workers(c);
    char replicas[48] = "";
    if (rb_replicated(c)) snprintf(replicas, sizeof replicas, " (%d processes, with replicas)", stages);
    rb_buf_printf(out,
                  "%s parameters in %" PRId64 " segments on %d stages%s; a step is %" PRId64
                  " microbatches of %" PRId64 " x %" PRId64 " tokens\n",
                  scaled((double)p->params, "", 1000, a), c->model.segments, (int)c->pipeline.stages,
                  replicas, c->train.microbatches, c->train.batch / c->train.microbatches, c->model.context);
    print_segments(&c->model, out);
    if (!o->machine) {
        rb_machine m = rb_machine_of(c);
        print_machine(&m, stages, out);
    }
    for (int i = 0, n = 1; o->machine && i < stages; i += n) {
        for (n = 1; i + n < stages && alike(&o->machine[i], &o->machine[i + n]);) n++;
        print_machine(&o->machine[i], n, out);
    }
    if (o->relay) print_relay(o->relay, out);
    char crowd[80] = "", moving[80] = "", b[32];
    if (p->crowd > 0)
        snprintf(crowd, sizeof crowd, ", %.2f times as long while %d stages compute", p->crowd, p->at_once);
    if (p->moving > 0)
        snprintf(moving, sizeof moving, "; links take %s of a core for a message", seconds(p->moving, b));
    rb_buf_printf(out, "  cost of computing: %s%s%s%s%s\n",
                  p->measured ? "measured on this machine" : "counted operations at the stated FLOP/s", crowd,
                  moving, c->link.half_duplex ? "; links half duplex" : "",
                  o->latency_occupies || c->link.latency_occupies ? "; the wire is busy for the latency too"
                                                                  : "");
    print_math(c, out);
    rb_buf_puts(out, "\n");
}

/* --- rows -------------------------------------------------------------------------------------------------- */

static void print_row(const rb_run_plan *p, int i, rb_buf *out) {
    const rb_plan_row *r = &p->row[i];
    char a[6][32], depth[16] = "-";
    rb_buf_printf(out, "%c %-20s %-16s ", i == p->best ? '*' : ' ', r->boundary, r->schedule);
    if (*r->refused) {
        rb_buf_printf(out, "not possible: %s\n", r->refused);
        return;
    }
    const rb_plan_stage *f = &r->stage[r->fullest];
    if (r->extra) snprintf(depth, sizeof depth, "+%d", r->extra);
    rb_buf_printf(out, "%9s %9.0f %5.1f%% %6.1f %5s %9s %9s %9s %9s ", seconds(r->step_s, a[0]),
                  r->tokens_per_s, 100 * r->idle, r->wire_ratio, depth, bytes(r->bytes[0], a[1]),
                  bytes(r->bytes[1], a[2]), seconds(r->wait_bandwidth, a[3]), seconds(r->wait_latency, a[4]));
    rb_buf_printf(out, "%9s", bytes((double)f->total, a[5]));
    if (!r->fits)
        rb_buf_printf(out, "  stage %d lacks %s", r->fullest,
                      bytes((double)f->total - (double)f->room, a[0]));
    rb_buf_puts(out, r->asynchronous ? "  (asynchronous)\n" : "\n");
}

static void print_rows(const rb_run_plan *p, rb_buf *out) {
    rb_buf_printf(out, "  %-20s %-16s %9s %9s %6s %6s %5s %9s %9s %9s %9s %9s\n", "", "", "", "", "", "wire",
                  "in", "a link in", "one step", "waiting", "per stage", "fullest");
    rb_buf_printf(out, "  %-20s %-16s %9s %9s %6s %6s %5s %9s %9s %9s %9s %9s\n", "boundary", "schedule",
                  "step", "tokens/s", "idle", "ratio", "depth", "forward", "back", "bandwidth", "latency",
                  "stage");
    for (int i = 0; i < p->count; i++) print_row(p, i, out);
}

/* Of many stages that differ in nothing but the microbatches alive, every few are shown. */
static bool like_neighbours(const rb_plan_row *r, int i) {
    if (i == 0 || i + 1 == r->stages) return false;
    const rb_plan_stage *s = &r->stage[i], *a = s - 1, *b = s + 1;
    double near = 1e-6 * s->busy;
    bool work = fabs(a->busy - s->busy) <= near && fabs(b->busy - s->busy) <= near && a->room == s->room &&
                b->room == s->room;
    if (a->stage > s->stage || s->stage > b->stage) return false; /* a border between replicas */
    bool memory = a->total == s->total && b->total == s->total;
    return work && i != r->fullest && (memory || (r->stages > 16 && i % (r->stages / 8)));
}

static void print_stages(const rb_plan_row *r, rb_buf *out) {
    char a[9][32];
    rb_buf_printf(out,
                  "\n%s under %s, stage by stage:\n%5s %9s %6s %9s %9s %9s %9s %5s %11s %9s %9s %9s %9s\n",
                  r->boundary, r->schedule, "stage", "segments", "blocks", "computes", "weights", "gradients",
                  "optimizer", "alive", "activations", "stashes", "working", "all", "has");
    for (int i = 0; i < r->stages; i++) {
        const rb_plan_stage *s = &r->stage[i];
        char name[24], place[24];
        if (like_neighbours(r, i)) continue;
        snprintf(name, sizeof name, s->segments > 1 ? "%d..%d" : "%d", s->first, s->first + s->segments - 1);
        snprintf(place, sizeof place, s->replica ? "%d.%d" : "%d", s->stage, s->replica);
        rb_buf_printf(out, "%5s %9s %6" PRId64 " %9s %9s %9s %9s %5d %11s %9s %9s %9s %9s\n", place, name,
                      s->layers, seconds(s->busy, a[0]), bytes((double)s->need.weights, a[1]),
                      bytes((double)s->need.gradients, a[2]), bytes((double)s->need.optimizer, a[3]),
                      s->slots, bytes((double)s->activations, a[4]),
                      s->stashes ? bytes((double)s->stashes, a[8]) : "-",
                      bytes((double)s->need.working, a[5]), bytes((double)s->total, a[6]),
                      s->room ? bytes((double)s->room, a[7]) : "-");
    }
}

static void print_recut(const rb_run_plan *p, rb_buf *out) {
    const rb_plan_cut *c = &p->recut;
    char a[32];
    if (!p->recut_tried) return;
    if (!c->segments) {
        rb_buf_puts(out, "  segments: no other cut of the model is faster by more than 2% (one per stage, "
                         "alike or by speed, and two)\n");
        return;
    }
    rb_buf_printf(out, "  segments: a model still to be made is faster as model.segments=");
    bool same = true;
    for (int64_t i = 1; i < c->segments; i++) same = same && c->layers[i] == c->layers[0];
    if (same) rb_buf_printf(out, "%" PRId64, c->segments);
    for (int64_t i = 0; !same && i < c->segments; i++)
        rb_buf_printf(out, "%s%" PRId64, i ? "," : "[", c->layers[i]);
    rb_buf_printf(out, "%s under pipeline.schedule=%s", same ? "" : "]", c->schedule);
    if (c->extra) rb_buf_printf(out, " with pipeline.inflight=%d", c->extra);
    rb_buf_printf(out, ": %s a step, %.0f%% less\n", seconds(c->step_s, a),
                  100 * (1 - c->step_s / p->row[p->best].step_s));
}

/* What would make the run's own row fit, else the first one that can be planned, where it lacks most. */
static void print_ways_out(const rb_plan_options *o, const rb_run_plan *p, rb_buf *out) {
    const rb_plan_row *r = NULL;
    for (int i = 0; i < p->count; i++)
        if (!*p->row[i].refused && (!r || (p->row[i].own && !r->own))) r = &p->row[i];
    rb_buf_puts(out, "\nNothing fits");
    if (r) {
        const rb_plan_stage *s = &r->stage[r->fullest];
        rb_config *c = malloc(sizeof *c);
        rb_err ignored;
        rb_buf_printf(out, ". Boundary %s under %s, ", r->boundary, r->schedule);
        if (c) *c = *o->cfg;
        if (c) snprintf(c->pipeline.schedule, sizeof c->pipeline.schedule, "%s", r->schedule);
        if (c && !rb_plan_boundary(c, r->boundary, &ignored))
            rb_fit_advise(c, s->stage, r->extra, (size_t)s->room, 0, out);
        free(c);
    }
    rb_buf_puts(out, ".\n");
}

/* Which part of the relay ends first: the one of which the recommended (or first) row takes the largest share. */
static void print_relay_use(const rb_plan_row *r, int participants, rb_buf *out) {
    const struct {
        const char *name;
        double share;
    } part[] = {{"downlink", r->relay.down},
                {"uplink", r->relay.up},
                {"thread that moves messages", r->relay.thread},
                {"memory", r->relay.memory}};
    char a[32];
    size_t most = 0;
    rb_buf_printf(out, "\nthe relay under %s and %s: %s a step each way;", r->boundary, r->schedule,
                  bytes(r->relay.bytes, a));
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        rb_buf_printf(out, "%s %s %.3g%%", i ? "," : "", part[i].name, 100 * part[i].share);
        if (part[i].share > part[most].share) most = i;
    }
    if (part[most].share > 0)
        rb_buf_printf(out, "; its %s ends first, at about %.3g participants like these %d\n", part[most].name,
                      participants / part[most].share, participants);
    else
        rb_buf_puts(out, "; nothing of it has a limit stated\n");
}

/* What it takes to bring snapshots to the host of a run across machines. */
static void print_uplink(const rb_plan_options *o, const rb_plan_row *r, rb_buf *out) {
    char a[32], b[32], c[32];
    const rb_config *f = o->cfg;
    if (r->snapshot_up_s <= 0) return;
    rb_buf_printf(out,
                  "  to the host of a run across machines: up to %s a stage, %s at link.snapshot_share=%g of "
                  "its uplink",
                  bytes((double)r->snapshot_most, a), seconds(r->snapshot_up_s, b), f->snapshot_share);
    if (r->snapshot_every_s > 0)
        rb_buf_printf(out, ", every %s: %.3g%% of it", seconds(r->snapshot_every_s, c),
                      100 * r->snapshot_uplink);
    rb_buf_puts(out, "; whole files, of which packing saved a fifth where it was measured\n");
    if (r->snapshot_every_s <= 0 || r->snapshot_up_s <= r->snapshot_every_s) return;
    int64_t enough = (int64_t)(r->snapshot_up_s / r->step_s) + 1;
    rb_buf_printf(out,
                  "  that is longer than the time between snapshots, so that steps would wait: "
                  "train.checkpoint_every=%" PRId64 " is "
                  "enough%s\n",
                  enough, r->snapshot_uplink < 1 ? ", or a larger link.snapshot_share" : "");
}

static void print_advice(const rb_plan_options *o, const rb_run_plan *p, rb_buf *out) {
    char a[32], b[32];
    if (p->best < 0) {
        print_ways_out(o, p, out);
        return;
    }
    const rb_plan_row *r = &p->row[p->best], *f = &p->row[p->fastest];
    rb_buf_printf(
        out,
        "\n* recommended: boundary %s (latents %.4g times narrower, %.4g times fewer bytes on the wire), "
        "pipeline.schedule=%s",
        r->boundary, r->ratio, r->wire_ratio, r->schedule);
    if (r->extra) rb_buf_printf(out, ", pipeline.inflight=%d", r->extra);
    rb_buf_printf(out, ", %" PRId64 " segments: %s a step", o->cfg->model.segments, seconds(r->step_s, a));
    if (p->best != p->fastest)
        rb_buf_printf(out, "; it narrows least of what is within 5%% of the fastest (%s under %s, %s)",
                      f->boundary, f->schedule, seconds(f->step_s, b));
    rb_buf_puts(out, "\n");
    print_recut(p, out);
    rb_buf_printf(out, "  a snapshot: %s over all stages", bytes((double)r->snapshot_bytes, a));
    if (r->snapshot_s > 0) rb_buf_printf(out, ", %s on the slowest disk", seconds(r->snapshot_s, b));
    rb_buf_puts(out, "\n");
    print_uplink(o, r, out);
}

void rb_plan_print(const rb_plan_options *o, const rb_run_plan *p, bool stages, rb_buf *out) {
    print_head(o, p, out);
    print_rows(p, out);
    int shown = p->best >= 0 ? p->best : 0;
    if (stages && p->count && !*p->row[shown].refused) print_stages(&p->row[shown], out);
    if (o->relay && p->count && !*p->row[shown].refused)
        print_relay_use(&p->row[shown], p->row[shown].stages, out);
    print_advice(o, p, out);
}

/* --- JSON -------------------------------------------------------------------------------------------------- */

static json_t *stage_json(const rb_plan_stage *s) {
    return json_pack("{s:i, s:i, s:f, s:i, s:i, s:I, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, "
                     "s:f, s:f, s:f, s:f, s:f}",
                     "stage", s->stage, "replica", s->replica, "bytes_sync", s->sync, "first", s->first,
                     "segments", s->segments, "layers", (json_int_t)s->layers, "slots", s->slots, "weights",
                     (json_int_t)s->need.weights, "gradients", (json_int_t)s->need.gradients, "optimizer",
                     (json_int_t)s->need.optimizer, "working", (json_int_t)s->need.working, "activations",
                     (json_int_t)s->activations, "stashes", (json_int_t)s->stashes, "total",
                     (json_int_t)s->total, "memory", (json_int_t)s->room, "snapshot",
                     (json_int_t)s->need.snapshot, "busy_s", s->busy, "wait_peer_s", s->wait_peer,
                     "wait_bandwidth_s", s->wait_bandwidth, "wait_latency_s", s->wait_latency, "bytes_fwd",
                     s->sent[0], "bytes_bwd", s->sent[1]);
}

static json_t *row_json(const rb_plan_row *r, bool best) {
    if (*r->refused)
        return json_pack("{s:s, s:s, s:s}", "boundary", r->boundary, "schedule", r->schedule, "refused",
                         r->refused);
    json_t *stages = json_array();
    for (int i = 0; i < r->stages; i++) json_array_append_new(stages, stage_json(&r->stage[i]));
    return json_pack("{s:s, s:s, s:b, s:b, s:b, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:i, s:i, "
                     "s:f, s:I, s:f, s:f, s:o, s:{s:f, s:f, s:f, s:f, s:f}}",
                     "boundary", r->boundary, "schedule", r->schedule, "fits", r->fits, "recommended", best,
                     "asynchronous", r->asynchronous, "step_s", r->step_s, "tokens_per_s", r->tokens_per_s,
                     "idle", r->idle, "link_bytes_fwd", r->bytes[0], "link_bytes_bwd", r->bytes[1], "ratio",
                     r->ratio, "wire_ratio", r->wire_ratio, "wait_peer_s", r->wait_peer, "wait_bandwidth_s",
                     r->wait_bandwidth, "wait_latency_s", r->wait_latency, "inflight", r->extra,
                     "fullest_stage", r->fullest, "snapshot_s", r->snapshot_s, "snapshot_bytes",
                     (json_int_t)r->snapshot_bytes, "snapshot_up_s", r->snapshot_up_s, "snapshot_uplink",
                     r->snapshot_uplink, "stages", stages, "relay", "bytes", r->relay.bytes, "down",
                     r->relay.down, "up", r->relay.up, "thread", r->relay.thread, "memory", r->relay.memory);
}

static json_t *cut_json(int64_t segments, const int64_t *layers) {
    json_t *list = json_array();
    for (int64_t i = 0; i < segments; i++) json_array_append_new(list, json_integer(layers[i]));
    return list;
}

/* What to set. */
static json_t *advice_json(const rb_plan_options *o, const rb_run_plan *p) {
    rb_config *c = p->best >= 0 ? malloc(sizeof *c) : NULL;
    rb_err ignored;
    if (!c) return json_null();
    const rb_plan_row *r = &p->row[p->best];
    *c = *o->cfg;
    bool known = !rb_plan_boundary(c, r->boundary, &ignored);
    json_t *recut = json_null();
    if (p->recut.segments)
        recut =
            json_pack("{s:o, s:s, s:i, s:f}", "segments", cut_json(p->recut.segments, p->recut.layers),
                      "schedule", p->recut.schedule, "inflight", p->recut.extra, "step_s", p->recut.step_s);
    json_t *out = json_pack(
        "{s:s, s:s, s:f, s:s, s:s, s:s, s:i, s:o, s:f, s:o}", "boundary", r->boundary, "kind",
        c->boundary.kind, "ratio", r->ratio, "codec_fwd", known ? c->boundary.codec_fwd : "?", "codec_bwd",
        known ? c->boundary.codec_bwd : "?", "schedule", r->schedule, "inflight", r->extra, "segments",
        cut_json(o->cfg->model.segments, o->cfg->model.segment_layers), "step_s", r->step_s, "recut", recut);
    free(c);
    return out;
}

resbm_status rb_plan_json(const rb_plan_options *o, const rb_run_plan *p, rb_buf *out, rb_err *err) {
    json_t *rows = json_array();
    for (int i = 0; i < p->count; i++) json_array_append_new(rows, row_json(&p->row[i], i == p->best));
    json_t *all = json_pack("{s:I, s:I, s:I, s:f, s:b, s:f, s:i, s:f, s:o, s:o}", "params",
                            (json_int_t)p->params, "stages", (json_int_t)o->cfg->pipeline.stages, "segments",
                            (json_int_t)o->cfg->model.segments, "tokens_per_step", p->tokens, "measured",
                            p->measured, "crowd", p->crowd, "at_once", p->at_once, "message_cpu_s", p->moving,
                            "rows", rows, "recommended", advice_json(o, p));
    char *text = all ? json_dumps(all, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    resbm_status st = text ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory to print the plan");
    if (text) rb_buf_printf(out, "%s\n", text);
    free(text);
    json_decref(all);
    return st;
}
