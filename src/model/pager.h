/* Gradients of the large matrices kept in a spill: the lender of nn/lend.h behind a stage's model.
 *
 * A unit is a matrix, or matrices joined to it, that is borrowed as a whole. Three windows, each as large as the largest
 * unit, hold the one that is added to, the next one on its way in and the last one on its way out:
 *
 *     window 0   | add: block 7, down |             | read: block 7, o | ...
 *     window 1   | read: gate and up  | add ....... | write .......... |
 *     window 2   | write: head ...... | read: o ... | add ............ |
 *
 * Which unit comes next is learned from the microbatch before: a wrong guess costs time only. A unit that was zeroed
 * since is not read. The bytes are those of a gradient that never left. */
#ifndef RB_MODEL_PAGER_H
#define RB_MODEL_PAGER_H

#include "core/spill.h"
#include "nn/lend.h"
#include "nn/tensor.h"

enum { RB_PAGER_WINDOWS = 3 };

typedef struct rb_pager rb_pager;

/* Is this tensor's gradient one that can be away? Matrices of blocks, embedding and head. */
bool rb_pager_takes(const rb_tensor *t);
/* Bytes of the spill for rows (a flag per row of the table: hosted here). */
uint64_t rb_pager_spill_bytes(const rb_tensor_table *t, const bool *hosted);
/* Bytes of these gradients, and of the windows (host and device) that a pager of them takes. */
void rb_pager_measure(const rb_device *dev, const rb_tensor_table *t, const bool *hosted, size_t *gradients,
                      size_t *windows);

/* Its region of the spill begins at `at`, a multiple of RB_SPILL_ALIGN. All gradients are zero. The table must stay.
 * bare: it is only opened to count its bytes, and the host's windows beside a device with memory of its own are left out. */
resbm_status rb_pager_open(rb_device *dev, rb_spill *spill, uint64_t at, const rb_tensor_table *t,
                           const bool *hosted, bool bare, rb_pager **out, rb_err *err);
void rb_pager_close(rb_pager *p); /* waits for what is under way; NULL is fine */
rb_lender rb_pager_lender(rb_pager *p);
size_t rb_pager_window_bytes(const rb_pager *p); /* of all windows, host and device */
/* The gradients of the table's rows [first, end) are zero; none of them may be borrowed. */
void rb_pager_zero(rb_pager *p, int first, int end);
/* Those units will now be borrowed in the order of the table. */
void rb_pager_walk(rb_pager *p, int first, int end);
/* Where in the spill a row's gradient is once it was given back: a zeroed one must be borrowed at least once. */
uint64_t rb_pager_at(const rb_pager *p, int row);
/* The unit of a row (the row itself or the one it is joined to), -1 when it is not away. */
int rb_pager_unit_row(const rb_pager *p, int row);

#endif
