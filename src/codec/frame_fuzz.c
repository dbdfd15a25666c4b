/* libFuzzer: a header as it comes from a socket, then its payload. Whatever get accepts must survive being
 * put again, hold a shape its payload has room for, and unpack without a read beyond it. Corpus:
 * tests/corpus/frame. */
#include <stdlib.h>
#include <string.h>
#include "codec/frame.h"
#include "device/ops.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { VALUES_MOST = 1 << 16 };

static void require(bool holds) {
    if (!holds) __builtin_trap();
}

/* The first part of an accepted tensor frame, unpacked from memory of exactly its length. */
static void unpack_first_part(const rb_frame_header *h, const uint8_t *payload) {
    rb_pack_args a = {.code = (rb_code)h->code, .scale = (rb_scale)h->scale};
    int64_t n = rb_packed_bytes(&a, h->B, h->T, h->k), values = (int64_t)h->B * h->T * h->k;
    rb_device *dev;
    rb_queue *q;
    rb_err err;
    require(n > 0 && (uint64_t)n <= h->payload_bytes);
    if (values > VALUES_MOST) return;
    uint8_t *bytes = malloc((size_t)n);
    float *x = malloc((size_t)values * sizeof *x), *steps = malloc(h->k * sizeof *steps);
    require(bytes && x && steps);
    memcpy(bytes, payload, (size_t)n);
    for (uint32_t j = 0; j < h->k; j++) steps[j] = 0.5f;
    require(!rb_device_open("cpu", &(rb_device_options){.threads = 1}, &dev, &err));
    require(!rb_queue_open(dev, &q, &err));
    require(!rb_unpack(q, rb_view3(x, RB_F32, h->B, h->T, h->k), rb_view1(bytes, RB_U8, n),
                       rb_view1(steps, RB_F32, h->k), &a, &err));
    rb_queue_close(q);
    rb_device_close(dev);
    free(bytes);
    free(x);
    free(steps);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    rb_frame_header h, again;
    rb_err err;
    if (size < RB_FRAME_HEADER_BYTES || rb_frame_get(data, &h, &err) != RESBM_OK) return 0;
    const uint8_t *payload = data + RB_FRAME_HEADER_BYTES;
    if (h.payload_bytes > size - RB_FRAME_HEADER_BYTES) return 0; /* the reader's limit */
    uint8_t out[RB_FRAME_HEADER_BYTES];
    rb_frame_put(out, &h, payload);
    bool intact = rb_frame_check_payload(&h, payload, &err) == RESBM_OK;
    require(!memcmp(out, data, 48) && intact == !memcmp(out, data, sizeof out));
    require(!rb_frame_get(out, &again, &err) && !rb_frame_expect(&again, &h, &err));
    require(!rb_frame_check_payload(&again, payload, &err));
    if (h.k) unpack_first_part(&h, payload);
    return 0;
}
