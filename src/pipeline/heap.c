#include "pipeline/heap.h"

#include <math.h>
#include <stdlib.h>

enum { WAYS = 4 };

bool rb_heap_open(rb_heap *h, int n) {
    *h = (rb_heap){.n = n};
    h->entry = malloc((size_t)n * sizeof *h->entry);
    h->place = malloc((size_t)n * sizeof *h->place);
    if (!h->entry || !h->place) return false;
    for (int i = 0; i < n; i++) {
        h->entry[i] = (rb_heap_entry){INFINITY, i};
        h->place[i] = i;
    }
    return true;
}

void rb_heap_close(rb_heap *h) {
    free(h->entry);
    free(h->place);
    *h = (rb_heap){0};
}

static bool before(rb_heap_entry a, rb_heap_entry b) {
    return a.time < b.time || (a.time == b.time && a.id < b.id);
}

static void put(rb_heap *h, int at, rb_heap_entry e) {
    h->entry[at] = e;
    h->place[e.id] = at;
}

/* The earliest of the entries below `at`; -1 when there are none. */
static int earliest_below(const rb_heap *h, int at) {
    int first = WAYS * at + 1, end = first + WAYS < h->n ? first + WAYS : h->n, best = first;
    if (first >= h->n) return -1;
    for (int i = first + 1; i < end; i++)
        if (before(h->entry[i], h->entry[best])) best = i;
    return best;
}

void rb_heap_set(rb_heap *h, int id, double time) {
    int at = h->place[id], other;
    rb_heap_entry e = {time, id};
    if (h->entry[at].time == time) return;
    for (; at > 0 && before(e, h->entry[other = (at - 1) / WAYS]); at = other) put(h, at, h->entry[other]);
    for (; (other = earliest_below(h, at)) >= 0 && before(h->entry[other], e); at = other)
        put(h, at, h->entry[other]);
    put(h, at, e);
}
