/* A heap of 0..n-1, each with a time: who is next. Of equal times the lower number comes first. */
#ifndef RB_PIPELINE_HEAP_H
#define RB_PIPELINE_HEAP_H

#include <stdbool.h>

typedef struct rb_heap_entry {
    double time; /* INFINITY: never */
    int id;
} rb_heap_entry;

typedef struct rb_heap {
    int n;
    rb_heap_entry *entry; /* (n) heap order, four below each */
    int *place;           /* (n) where each stands in it */
} rb_heap;

bool rb_heap_open(rb_heap *h, int n); /* n >= 1, all at INFINITY; false: no memory */
void rb_heap_close(rb_heap *h);
void rb_heap_set(rb_heap *h, int id, double time);
static inline rb_heap_entry rb_heap_first(const rb_heap *h) {
    return h->entry[0];
}

#endif
