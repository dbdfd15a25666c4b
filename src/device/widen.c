#include "device/widen.h"

#include <stdlib.h>
#include "core/bytes.h"
#include "device/view.h"

bool rb_wants_widening(const rb_op *op) {
    if (op->kind == RB_OP_AXPBY) return false; /* whose work conversion is */
    for (int j = 0; j < rb_op_info(op->kind)->views; j++)
        if (op->t[j].data && op->t[j].dtype == RB_BF16) return true;
    return false;
}

/* v in f32 without gaps at `to`. */
static rb_view contiguous(const rb_view *v, float *to) {
    rb_view w = *v;
    int64_t stride = 1;
    w.data = to;
    w.dtype = RB_F32;
    for (int i = v->rank - 1; i >= 0; i--) {
        w.stride[i] = stride;
        stride *= v->shape[i];
    }
    return w;
}

static void widen(const rb_view *from, float *to) {
    int64_t rows = rb_row_count(from), width = rb_row_width(from);
    for (int64_t r = 0; r < rows; r++) {
        const uint16_t *row = (const uint16_t *)from->data + rb_row_offset(from, r);
        for (int64_t i = 0; i < width; i++) to[r * width + i] = rb_bf16_to_f32(row[i]);
    }
}

static void narrow(const float *from, const rb_view *to) {
    int64_t rows = rb_row_count(to), width = rb_row_width(to);
    for (int64_t r = 0; r < rows; r++) {
        uint16_t *row = (uint16_t *)to->data + rb_row_offset(to, r);
        for (int64_t i = 0; i < width; i++) row[i] = rb_bf16_from_f32(from[r * width + i]);
    }
}

static bool is_half(const rb_op *op, int j) {
    return op->t[j].data && op->t[j].dtype == RB_BF16;
}

/* Operands may share memory with outputs: all are read before anything is written. */
resbm_status rb_run_widened(rb_queue *q, const rb_op *op, rb_err *err) {
    const rb_op_desc *d = rb_op_info(op->kind);
    rb_op wide = *op;
    size_t count = 0;
    for (int j = 0; j < d->views; j++) count += is_half(op, j) ? (size_t)rb_count(op->t[j]) : 0;
    float *room = malloc(count * sizeof *room), *at = room;
    if (!room)
        return rb_fail(err, RESBM_E_MEMORY, "%s: no memory for %zu numbers of bf16 operands in f32", d->name,
                       count);
    for (int j = 0; j < d->views; j++) {
        if (!is_half(op, j)) continue;
        if (!(d->out >> j & 1) || d->inout >> j & 1) widen(&op->t[j], at);
        wide.t[j] = contiguous(&op->t[j], at);
        at += rb_count(op->t[j]);
    }
    resbm_status st = q->dev->table->kernel[op->kind](q, &wide, err);
    for (int j = 0; st == RESBM_OK && j < d->views; j++)
        if (is_half(op, j) && d->out >> j & 1) narrow((const float *)wide.t[j].data, &op->t[j]);
    free(room);
    return st;
}
