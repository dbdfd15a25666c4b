#include "link/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

rb_node *rb_node_of(rb_message *m) {
    return (rb_node *)(void *)m;
}

rb_message *rb_message_new(size_t bytes) {
    size_t front = (sizeof(rb_node) + 63) / 64 * 64;
    if (bytes > SIZE_MAX - front - 64) return NULL;
    rb_node *n = aligned_alloc(64, front + (bytes + 63) / 64 * 64);
    if (!n) return NULL;
    memset(n, 0, sizeof *n);
    n->capacity = bytes;
    n->msg.payload = (uint8_t *)n + front;
    n->msg.head.payload_bytes = bytes;
    return &n->msg;
}

void rb_message_free(rb_message *m) {
    free(m);
}

void rb_list_push(rb_list *l, rb_node *n) {
    n->next = NULL;
    if (l->tail)
        l->tail->next = n;
    else
        l->head = n;
    l->tail = n;
}

rb_node *rb_list_pop(rb_list *l) {
    rb_node *n = l->head;
    if (!n) return NULL;
    l->head = n->next;
    if (!l->head) l->tail = NULL;
    n->next = NULL;
    return n;
}

void rb_list_free(rb_list *l) {
    for (rb_node *n; (n = rb_list_pop(l));) rb_message_free(&n->msg);
}

/* Token ids are counted as the payload's last bytes; which they really are changes no total. */
void rb_count_bytes(uint64_t count[RB_TRAFFIC_COUNT], const rb_node *n, size_t from, size_t to) {
    size_t border = n->total - n->msg.token_bytes;
    size_t before = from < border ? (to < border ? to : border) - from : 0;
    count[n->msg.traffic] += before;
    count[RB_TRAFFIC_TOKENS] += to - from - before;
}

rb_traffic rb_traffic_of(const rb_frame_header *h) {
    if (h->kind == RB_FRAME_FORWARD) return RB_TRAFFIC_ACTIVATION;
    if (h->kind == RB_FRAME_SYNC) return RB_TRAFFIC_SYNC;
    return h->kind == RB_FRAME_BACKWARD ? RB_TRAFFIC_GRADIENT : RB_TRAFFIC_CONTROL;
}

const char *rb_what(char buf[RB_WHAT_TEXT], const rb_frame_header *h) {
    if (h->kind == RB_FRAME_FORWARD || h->kind == RB_FRAME_BACKWARD)
        snprintf(buf, RB_WHAT_TEXT, "the %s of boundary %u, microbatch %u, step %llu",
                 h->kind == RB_FRAME_FORWARD ? "forward activation" : "gradient", h->boundary, h->microbatch,
                 (unsigned long long)h->step);
    else if (h->kind == RB_FRAME_SYNC)
        snprintf(buf, RB_WHAT_TEXT, "%s of step %llu, piece %u", h->boundary ? "a sum" : "a replica's part",
                 (unsigned long long)h->step, h->microbatch);
    else
        snprintf(buf, RB_WHAT_TEXT, "a %s message",
                 h->kind == RB_FRAME_PROBE  ? "probe"
                 : h->kind == RB_FRAME_BLOB ? "blob"
                                            : "control");
    return buf;
}
