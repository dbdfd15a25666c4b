/* A middle stage between two scripted neighbours: a real `resbm stage` process that trains its segment over real links,
 * while this program plays its coordinator and both stages beside it. The one before sends the same random latents every
 * step; the one behind compares what arrives with random targets and sends the gradient of
 *
 *     loss = 1/2 mean |q - target|^2
 *
 * back. So one machine trains a piece of a model whose other stages it could never hold.
 *
 *     middle_stage RESBM STEPS [key=value ...]       key=value as of `resbm train`; the model has three segments */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/clock.h"
#include "core/rng.h"
#include "run/control.h"
#include "run/port.h"
#include "run/spawn.h"
#include "run/config.h"

enum { SELF = 1, STAGES = 3 };

/* A neighbour: its link to the stage, and the two ports of the boundary between them. */
typedef struct side {
    int number;
    rb_link *link;
    rb_port forward, backward;
    rb_view x; /* (B,T,k) */
    float *host;
} side;

typedef struct bench {
    rb_config cfg;
    int64_t B, T, M, k;
    rb_device *dev;
    rb_queue *q;
    rb_link *control;
    rb_listener *at_control, *at_behind;
    rb_child child;
    side before, behind;
    float *inputs, *targets; /* (M,B,T,k) */
    int id_bytes;
    uint64_t sent, received; /* bytes of both links, frame headers included */
} bench;

static int64_t deadline(const bench *b) {
    return rb_now_ns() + b->cfg.pipeline.deadline_ns;
}

/* --- setting up */

static resbm_status configure(bench *b, char **keys, int n, rb_err *err) {
    static const char *const fixed[] = {"model.segments=[1,2,1]",  "model.layers=4",
                                        "pipeline.stages=3",       "pipeline.transport=tcp",
                                        "data.train=none",         "data.distribute=wire",
                                        "boundary.codec_fwd=int8", "boundary.scale_fwd=token",
                                        "boundary.codec_bwd=int8", "pipeline.deadline=600s"};
    RB_TRY(rb_config_defaults(&b->cfg, err));
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        RB_TRY(rb_config_override(&b->cfg, fixed[i], err));
    for (int i = 0; i < n; i++) RB_TRY(rb_config_override(&b->cfg, keys[i], err));
    RB_TRY(rb_config_validate(&b->cfg, err));
    if (b->cfg.model.segments != STAGES || b->cfg.pipeline.stages != STAGES)
        return rb_fail(err, RESBM_E_CONFIG, "the model must have three segments on three stages");
    b->M = b->cfg.train.microbatches;
    b->B = b->cfg.train.batch / b->M;
    b->T = b->cfg.model.context;
    b->k = b->cfg.boundary.k;
    b->id_bytes = rb_id_bytes(b->cfg.model.vocab);
    return RESBM_OK;
}

static resbm_status open_side(bench *b, side *s, int number, int boundary, uint64_t token, rb_err *err) {
    rb_link_limits limits = {(size_t)1 << 30, (size_t)256 << 20, (size_t)256 << 20};
    rb_link_options o = {
        .self = number, .stages = STAGES, .epoch = 1, .token = token, .limits = limits, .shape = b->cfg.link};
    void *memory = NULL;
    size_t bytes = (size_t)(b->B * b->T * b->k) * sizeof(float);
    s->number = number;
    RB_TRY(rb_link_open(&o, &s->link, err));
    RB_TRY(rb_port_open(b->dev, &b->cfg.model, &b->cfg.boundary, boundary, 0, b->B, b->T, rb_none(),
                        &s->forward, err));
    RB_TRY(rb_port_open(b->dev, &b->cfg.model, &b->cfg.boundary, boundary, 1, b->B, b->T, rb_none(),
                        &s->backward, err));
    RB_TRY(rb_alloc(b->dev, bytes, &memory, err));
    s->x = rb_view3(memory, RB_F32, b->B, b->T, b->k);
    s->host = malloc(bytes);
    return s->host ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory for %zu bytes", bytes);
}

static resbm_status make_data(bench *b, rb_err *err) {
    int64_t n = b->M * b->B * b->T * b->k;
    b->inputs = malloc((size_t)n * sizeof *b->inputs);
    b->targets = malloc((size_t)n * sizeof *b->targets);
    if (!b->inputs || !b->targets)
        return rb_fail(err, RESBM_E_MEMORY, "no memory for %" PRId64 " numbers", n);
    rb_normal_fill(1, b->inputs, n, 0, 1);
    rb_normal_fill(2, b->targets, n, 0, 1);
    return RESBM_OK;
}

static resbm_status send_config(bench *b, rb_err *err) {
    rb_buf text = {0};
    rb_config_print(&b->cfg, &text);
    RB_TRY(rb_buf_status(&text, err));
    json_int_t threads = b->cfg.pipeline.threads ? b->cfg.pipeline.threads : 2;
    json_t *j = json_pack("{s:s, s:s, s:I, s:b, s:I, s:s, s:s}", "t", "config", "config", text.data, "epoch",
                          (json_int_t)1, "training", 1, "threads", threads, "listen", "tcp:127.0.0.1:0",
                          "scratch", ".");
    rb_buf_free(&text);
    return rb_control_send(b->control, SELF, j, deadline(b), err);
}

/* The stage dials the one behind it and is dialled by the one before. */
static resbm_status introduce(bench *b, rb_err *err) {
    json_t *j = NULL;
    int from, peer;
    RB_TRY(rb_control_expect(b->control, SELF, "listening", deadline(b), &from, &j, err));
    char address[256];
    snprintf(address, sizeof address, "%s", json_string_value(json_object_get(j, "address")));
    json_decref(j);
    j = json_pack("{s:s, s:[s,s,s]}", "t", "peers", "addresses", "", address,
                  rb_listener_address(b->at_behind));
    RB_TRY(rb_control_send(b->control, SELF, j, deadline(b), err));
    RB_TRY(rb_link_accept(b->behind.link, b->at_behind, deadline(b), &peer, err));
    RB_TRY(rb_link_connect(b->before.link, SELF, address, deadline(b), err));
    RB_TRY(rb_control_expect(b->control, SELF, "ready", deadline(b), &from, &j, err));
    json_decref(j);
    return RESBM_OK;
}

static resbm_status open_bench(bench *b, const char *program, rb_err *err) {
    rb_device_options o = {.threads = 1};
    rb_link_limits limits = {(size_t)1 << 30, (size_t)256 << 20, (size_t)256 << 20};
    uint64_t token = rb_mix64((uint64_t)rb_now_ns(), 3);
    int peer;
    RB_TRY(rb_device_open("cpu", &o, &b->dev, err));
    RB_TRY(rb_queue_open(b->dev, &b->q, err));
    RB_TRY(make_data(b, err));
    RB_TRY(open_side(b, &b->before, SELF - 1, SELF - 1, token, err));
    RB_TRY(open_side(b, &b->behind, SELF + 1, SELF, token, err));
    RB_TRY(rb_listen("tcp:127.0.0.1:0", &b->at_control, err));
    RB_TRY(rb_listen("tcp:127.0.0.1:0", &b->at_behind, err));
    rb_link_options lo = {.self = RB_PEER_COORDINATOR, .stages = STAGES, .token = token, .limits = limits};
    RB_TRY(rb_link_open(&lo, &b->control, err));
    RB_TRY(rb_spawn_stage(program, "", rb_listener_address(b->at_control), SELF, STAGES, token, NULL,
                          &b->child, err));
    RB_TRY(rb_link_accept(b->control, b->at_control, deadline(b), &peer, err));
    RB_TRY(send_config(b, err));
    return introduce(b, err);
}

static void close_side(bench *b, side *s) {
    rb_port_close(&s->forward);
    rb_port_close(&s->backward);
    if (s->x.data) rb_free(b->dev, s->x.data);
    rb_link_fini(s->link);
    free(s->host);
}

static void close_bench(bench *b) {
    if (b->control) rb_link_close(b->control);
    rb_children_end(&b->child, b->child.pid != 0, rb_now_ns() + 5 * RB_SEC);
    rb_link_fini(b->control);
    rb_listener_close(b->at_control);
    rb_listener_close(b->at_behind);
    if (b->dev) {
        close_side(b, &b->before);
        close_side(b, &b->behind);
    }
    if (b->q) rb_queue_close(b->q);
    rb_device_close(b->dev);
    free(b->inputs);
    free(b->targets);
}

/* --- messages */

static size_t ids_of(const bench *b, const rb_port *p) {
    return p->direction ? 0 : (size_t)(b->B * (b->T + 1)) * (size_t)b->id_bytes;
}

static rb_frame_header address(const bench *b, const rb_port *p, uint64_t step, int64_t m) {
    const rb_wire_part *w = &p->wire.part[0];
    return (rb_frame_header){.kind = p->direction ? RB_FRAME_BACKWARD : RB_FRAME_FORWARD,
                             .epoch = 1,
                             .direction = (uint8_t)p->direction,
                             .boundary = (uint16_t)p->boundary,
                             .step = step,
                             .microbatch = (uint32_t)m,
                             .code = (uint8_t)w->pack.code,
                             .scale = (uint8_t)w->pack.scale,
                             .B = (uint32_t)b->B,
                             .T = (uint32_t)b->T,
                             .k = (uint32_t)b->k,
                             .payload_bytes = p->packed_bytes + ids_of(b, p)};
}

static rb_port_key key(const bench *b, uint64_t step, int64_t m) {
    return (rb_port_key){b->cfg.train.seed, step,
                         (step - 1) * (uint64_t)(b->M * b->B) + (uint64_t)(m * b->B)};
}

static resbm_status send(bench *b, side *s, rb_port *p, uint64_t step, int64_t m, const float *x,
                         rb_err *err) {
    RB_TRY(rb_upload(b->q, s->x.data, x, (size_t)rb_count(s->x) * sizeof *x, err));
    RB_TRY(rb_port_pack(p, b->q, &s->x, key(b, step, m), err));
    rb_frame_header head = address(b, p, step, m);
    rb_message *out = rb_message_new(head.payload_bytes);
    if (!out) return rb_fail(err, RESBM_E_MEMORY, "no memory for a message");
    memset(out->payload, 0, head.payload_bytes);
    out->head = head;
    out->traffic = p->direction ? RB_TRAFFIC_GRADIENT : RB_TRAFFIC_ACTIVATION;
    RB_TRY(rb_download(b->q, out->payload, p->bytes, p->packed_bytes, err));
    RB_TRY(rb_queue_sync(b->q, err));
    b->sent += RB_FRAME_HEADER_BYTES + head.payload_bytes;
    return rb_link_send(s->link, SELF, out, deadline(b), err);
}

static resbm_status receive(bench *b, side *s, rb_port *p, uint64_t step, int64_t m, rb_err *err) {
    rb_frame_header want = address(b, p, step, m);
    rb_message *in = NULL;
    RB_TRY(rb_link_recv(s->link, SELF, &want, deadline(b), &in, err));
    resbm_status st = rb_frame_expect(&in->head, &want, err);
    if (!st) st = rb_upload(b->q, p->bytes, in->payload, p->packed_bytes, err);
    if (!st) st = rb_port_unpack(p, b->q, &s->x, key(b, step, m), err);
    if (!st) st = rb_download(b->q, s->host, s->x.data, (size_t)rb_count(s->x) * sizeof(float), err);
    if (!st) st = rb_queue_sync(b->q, err);
    rb_message_free(in);
    b->received += RB_FRAME_HEADER_BYTES + want.payload_bytes;
    return st;
}

/* s->host becomes the gradient; returns this microbatch's part of the loss. */
static double compare(const bench *b, side *s, const float *target) {
    int64_t n = rb_count(s->x);
    double sum = 0, all = (double)(n * b->M);
    for (int64_t i = 0; i < n; i++) {
        double apart = (double)s->host[i] - (double)target[i];
        sum += 0.5 * apart * apart / all;
        s->host[i] = (float)(apart / all);
    }
    return sum;
}

/* --- a step */

static resbm_status commit(bench *b, uint64_t step, rb_err *err) {
    double one[STAGES] = {1, 1, 1};
    return rb_control_send(b->control, SELF,
                           json_pack("{s:s, s:I, s:o, s:o}", "t", "commit", "step", (json_int_t)step, "lr",
                                     rb_json_doubles(one, 1), "scale", rb_json_doubles(one, STAGES)),
                           deadline(b), err);
}

static resbm_status one_step(bench *b, uint64_t step, double *loss, json_t **done, rb_err *err) {
    int64_t n = b->B * b->T * b->k, sequence = (int64_t)(step - 1) * b->M * b->B;
    int from;
    RB_TRY(rb_control_send(
        b->control, SELF,
        json_pack("{s:s, s:I, s:I}", "t", "step", "step", (json_int_t)step, "sequence", (json_int_t)sequence),
        deadline(b), err));
    for (int64_t m = 0; m < b->M; m++)
        RB_TRY(send(b, &b->before, &b->before.forward, step, m, b->inputs + m * n, err));
    *loss = 0;
    for (int64_t m = 0; m < b->M; m++) {
        RB_TRY(receive(b, &b->behind, &b->behind.forward, step, m, err));
        *loss += compare(b, &b->behind, b->targets + m * n);
        RB_TRY(send(b, &b->behind, &b->behind.backward, step, m, b->behind.host, err));
    }
    for (int64_t m = 0; m < b->M; m++) RB_TRY(receive(b, &b->before, &b->before.backward, step, m, err));
    RB_TRY(rb_control_expect(b->control, SELF, "done", deadline(b), &from, done, err));
    return commit(b, step, err);
}

static resbm_status run(bench *b, int steps, rb_err *err) {
    double first = 0, loss = 0;
    int64_t begin = rb_now_ns();
    for (int i = 1; i <= steps; i++) {
        json_t *done = NULL;
        int64_t at = rb_now_ns();
        RB_TRY(one_step(b, (uint64_t)i, &loss, &done, err));
        if (i == 1) first = loss;
        printf("step %d  loss %.6f  %.2f s, of these %.2f s a microbatch computing; peak %.2f GB\n", i, loss,
               (double)(rb_now_ns() - at) * 1e-9,
               (double)json_integer_value(json_object_get(done, "busy_ns")) * 1e-9 / (double)b->M,
               (double)json_integer_value(json_object_get(done, "rss")) * 1e-9);
        fflush(stdout);
        json_decref(done);
    }
    json_t *stats = NULL;
    int from;
    RB_TRY(rb_control_send(b->control, SELF, json_pack("{s:s}", "t", "finish"), deadline(b), err));
    RB_TRY(rb_control_expect(b->control, SELF, "stats", deadline(b), &from, &stats, err));
    int64_t tokens = steps * b->M * b->B * b->T;
    printf("%d steps of %" PRId64 " microbatches of %" PRId64
           " tokens: loss %.6f -> %.6f in %.1f s; peak resident %.3f GB; "
           "bytes a token to the stage %.2f, from it %.2f\n",
           steps, b->M, b->B * b->T, first, loss, (double)(rb_now_ns() - begin) * 1e-9,
           (double)json_integer_value(json_object_get(stats, "rss")) * 1e-9, (double)b->sent / (double)tokens,
           (double)b->received / (double)tokens);
    json_decref(stats);
    if (!(loss < first))
        return rb_fail(err, RESBM_E_NUMERIC, "the loss did not fall: %g, then %g", first, loss);
    return RESBM_OK;
}

int main(int argc, char **argv) {
    static bench b;
    rb_err err = {0};
    int steps = argc > 2 ? atoi(argv[2]) : 0;
    if (steps < 1) {
        fprintf(stderr, "usage: %s RESBM STEPS [section.key=value ...]\n", argv[0]);
        return 2;
    }
    resbm_status st = configure(&b, argv + 3, argc - 3, &err);
    if (!st) st = open_bench(&b, argv[1], &err);
    if (!st) st = run(&b, steps, &err);
    if (st) fprintf(stderr, "middle_stage: %s\n", err.text);
    close_bench(&b);
    return st ? 1 : 0;
}
