/* Blocks over unequal stages, with embedding and head counted: which model.segments suits a list of machines. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "pipeline/partition.h"
#include "run/devices.h"
#include "run/plan.h"
#include "run/workers.h"

/* What the first, a middle and the last segment take in a model of three. */
typedef struct sample {
    int64_t layers;
    double work, bytes, slot;
} sample;

static resbm_status measure(const rb_plan_options *o, rb_config *c, int segment, sample *out, rb_err *err) {
    rb_segment_measure m;
    rb_stage_need n;
    size_t slot;
    char name[RB_DEVICE_NAME];
    RB_TRY(rb_plan_measure(o, c, "own", rb_plan_measures(o) ? rb_device_of_stage(c, 0, name) : "timed",
                           segment, 0, &m, err));
    RB_TRY(rb_measure_stage(c, &segment, 1, false, &n, &slot, err));
    out->layers = c->model.segment_layers[segment];
    out->work = m.forward + m.backward;
    out->bytes = (double)(n.weights + n.gradients + n.optimizer + n.working);
    out->slot = (double)slot;
    return RESBM_OK;
}

static resbm_status sample_model(const rb_plan_options *o, rb_config *c, sample s[3], rb_err *err) {
    if (c->model.layers < 3)
        return rb_fail(err, RESBM_E_CONFIG, "a model of %lld blocks has nothing to balance",
                       (long long)c->model.layers);
    c->model.segments = 3;
    c->pipeline.stages = 1;
    rb_config_alone(c);
    memset(c->model.segment_layers, 0, sizeof c->model.segment_layers);
    snprintf(c->pipeline.schedule, sizeof c->pipeline.schedule, "1f1b");
    RB_TRY(rb_config_validate(c, err));
    for (int i = 0; i < 3; i++) RB_TRY(measure(o, c, i, &s[i], err));
    return RESBM_OK;
}

/* A block is a share of the middle segment; embedding and head are what the ends take beyond their blocks. What a
 * segment's parts share (scratch) counts with its blocks. */
static void fill_loads(const sample s[3], int layers, rb_partition_load *load) {
    double blocks = (double)s[1].layers;
    for (int i = 0; i < layers; i++)
        load[i] = (rb_partition_load){s[1].work / blocks, s[1].bytes / blocks, s[1].slot / blocks};
    for (int end = 0; end < 2; end++) {
        rb_partition_load *l = end ? &load[layers - 1] : &load[0];
        const sample *e = &s[end ? 2 : 0];
        l->work += fmax(0, e->work - s[1].work / blocks * (double)e->layers);
        l->bytes += fmax(0, e->bytes - s[1].bytes / blocks * (double)e->layers);
        l->slot += fmax(0, e->slot - s[1].slot / blocks * (double)e->layers);
    }
}

static resbm_status cut(const rb_plan_options *o, const sample s[3], int *sizes, rb_err *err) {
    int layers = (int)o->cfg->model.layers, stages = (int)o->cfg->pipeline.stages;
    rb_partition_load *load = calloc((size_t)layers, sizeof *load);
    rb_partition_stage *stage = calloc((size_t)stages, sizeof *stage);
    resbm_status st =
        load && stage ? RESBM_OK : rb_fail(err, RESBM_E_MEMORY, "no memory to cut %d blocks", layers);
    for (int i = 0; i < stages && !st; i++) {
        int alive = stages - i > 2 ? stages - i : 2; /* as under 1f1b */
        double flops = o->machine ? o->machine[i].flops : o->cfg->pipeline.speed;
        double room = o->machine ? (double)o->machine[i].memory : (double)o->cfg->pipeline.memory;
        stage[i] = (rb_partition_stage){.speed = flops > 0 ? flops : 1, .room = room, .alive = alive};
    }
    if (!st) {
        fill_loads(s, layers, load);
        st = rb_partition_unequal(load, layers, stage, stages, sizes, err);
        if (st) st = rb_err_context(err, st, "blocks over stages: ");
    }
    free(load);
    free(stage);
    return st;
}

resbm_status rb_plan_balance(const rb_plan_options *o, rb_config *c, rb_err *err) {
    sample s[3] = {{0}};
    int sizes[RB_MAX_STAGES];
    RB_TRY(rb_plan_check(o, err));
    rb_config *copy = malloc(sizeof *copy);
    if (!copy) return rb_fail(err, RESBM_E_MEMORY, "no memory for a configuration");
    *copy = *o->cfg;
    resbm_status st = sample_model(o, copy, s, err);
    free(copy);
    if (!st) st = cut(o, s, sizes, err);
    if (st) return st;
    *c = *o->cfg;
    c->model.segments = c->pipeline.stages;
    memset(c->model.segment_layers, 0, sizeof c->model.segment_layers);
    for (int i = 0; i < c->pipeline.stages; i++) c->model.segment_layers[i] = sizes[i];
    return rb_config_validate(c, err);
}
