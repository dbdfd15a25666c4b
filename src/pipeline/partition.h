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

/* One thing to place, and one stage. */
typedef struct rb_partition_load {
    double work;        /* any unit */
    double bytes, slot; /* that it takes, and beside them for every microbatch alive */
} rb_partition_load;
typedef struct rb_partition_stage {
    double speed; /* work a second */
    double room;  /* bytes; 0 = no limit */
    int alive;    /* microbatches alive at once */
} rb_partition_stage;
/* sizes (parts) that make the slowest stage as fast as it can be, no stage over its room. Among cuts as fast
 * the most even one. RESBM_E_CONFIG where nothing fits: how many bytes too many, and from which thing and stage on. Dynamic
 * programme, O(parts count^2). */
resbm_status rb_partition_unequal(const rb_partition_load *load, int count, const rb_partition_stage *stage,
                                  int parts, int *sizes, rb_err *err);

/* owner (sum of sizes): which part each thing lies in. */
void rb_partition_owners(const int *sizes, int parts, int *owner);

#endif
