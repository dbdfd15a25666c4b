/* Tensors that are not in memory all the time. A view without data is away: whoever needs it borrows memory that holds it,
 * uses that, and gives it back. What is away, and where it is meanwhile, is the lender's (model/pager.h).
 *
 * A row is that of a tensor table; rows joined to it come with it, straight behind it. */
#ifndef RB_NN_LEND_H
#define RB_NN_LEND_H

#include "nn/linear.h"

typedef struct rb_lender {
    void *ctx;
    /* *memory: the row's bytes as they are, the device's until give; blocks until they are there. */
    resbm_status (*borrow)(void *ctx, rb_queue *q, int row, void **memory, rb_err *err);
    /* changed: they are kept as they are once the queue is done with them, which it waits for. */
    resbm_status (*give)(void *ctx, rb_queue *q, int row, bool changed, rb_err *err);
} rb_lender;

static inline resbm_status rb_lend_borrow(const rb_lender *l, rb_queue *q, int row, rb_view *v, rb_err *err) {
    if (v->data) return RESBM_OK;
    if (!l)
        return rb_fail(err, RESBM_E_INTERNAL, "row %d of the tensor table has neither memory nor a lender",
                       row);
    return l->borrow(l->ctx, q, row, &v->data, err);
}
/* `was`: the view before it was borrowed. */
static inline resbm_status rb_lend_give(const rb_lender *l, rb_queue *q, int row, rb_view was, bool changed,
                                        rb_err *err) {
    return was.data ? RESBM_OK : l->give(l->ctx, q, row, changed, err);
}

/* rb_linear_backward_w into a gradient that may be away. */
static inline resbm_status rb_lend_backward_w(const rb_lender *l, rb_queue *q, int row, rb_view dw,
                                              rb_view dy, rb_view x, rb_err *err) {
    rb_view here = dw;
    RB_TRY(rb_lend_borrow(l, q, row, &here, err));
    RB_TRY(rb_linear_backward_w(q, here, dy, x, err));
    return rb_lend_give(l, q, row, dw, true, err);
}

#endif
