#include "run/lease.h"

#include <stdlib.h>
#include <string.h>

/* Before four gaps are known, and what no learned lease passes. */
#define FIRST (4 * RB_SEC)
#define MOST  (20 * RB_SEC)

/* Eight beats: a cut of a second or two, and the time that TCP takes to notice its end, are no loss (a connection gets over them by
 * itself); a machine whose beats come late anyway has the more time. */
enum { MEDIANS = 8, DEVIATIONS = 16 };

void rb_lease_note(rb_lease *l, int64_t gap_ns) {
    l->gap_ns[l->gaps++ % RB_BEAT_GAPS] = gap_ns > RB_BEAT_NS ? gap_ns : RB_BEAT_NS;
    if (l->gaps == 2 * RB_BEAT_GAPS) l->gaps = RB_BEAT_GAPS; /* a ring that is full stays so */
}

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Medians: one gap that was an hour long, because a machine slept, says nothing about the next. */
int64_t rb_lease_ns(const rb_lease *l) {
    int64_t v[RB_BEAT_GAPS], lease;
    int n = l->gaps < RB_BEAT_GAPS ? l->gaps : RB_BEAT_GAPS;
    if (n < 4) return FIRST;
    memcpy(v, l->gap_ns, (size_t)n * sizeof *v);
    qsort(v, (size_t)n, sizeof *v, by_size);
    int64_t median = v[n / 2];
    for (int i = 0; i < n; i++) v[i] = llabs(v[i] - median);
    qsort(v, (size_t)n, sizeof *v, by_size);
    lease = MEDIANS * median + DEVIATIONS * v[n / 2];
    return lease > MOST ? MOST : lease;
}
