/* Cuts a run of things into contiguous parts: layers into segments, segments into stages. Every part gets at
 * least one thing and every thing lies in exactly one part. */
#ifndef RB_PIPELINE_PARTITION_H
#define RB_PIPELINE_PARTITION_H

#include "core/err.h"

/* sizes (parts): count / parts each, the remainder one each to the earliest. RESBM_E_ARG when parts > count.
 */
resbm_status rb_partition_even(int count, int parts, int *sizes, rb_err *err);
/* sizes (parts) that make the heaviest part as light as it can be; weights (count) >= 0 and finite. Among
 * equal cuts the one whose earlier parts are longer. Dynamic programme, O(parts count^2). */
resbm_status rb_partition_weighted(const double *weights, int count, int parts, int *sizes, rb_err *err);
/* owner (sum of sizes): which part each thing lies in. */
void rb_partition_owners(const int *sizes, int parts, int *owner);

#endif
