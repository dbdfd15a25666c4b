#include "run/lease.h"

/* Before four gaps are known, and what no learned lease passes. */
#define FIRST (4 * RB_SEC)
#define MOST  (20 * RB_SEC)

/* Eight beats: a cut of a second or two, and the time that TCP takes to notice its end, are no loss (a connection gets over them by
 * itself); a machine whose beats come late anyway has the more time. */
enum { KNOWN = 4, MEDIANS = 8, DEVIATIONS = 16 };

void rb_lease_note(rb_lease *l, int64_t gap_ns) {
    rb_usual_note(&l->gaps, gap_ns > RB_BEAT_NS ? gap_ns : RB_BEAT_NS);
}

int64_t rb_lease_ns(const rb_lease *l) {
    if (rb_usual_known(&l->gaps) < KNOWN) return FIRST;
    int64_t deviation, median = rb_usual_median(&l->gaps, &deviation),
                       lease = MEDIANS * median + DEVIATIONS * deviation;
    return lease > MOST ? MOST : lease;
}
