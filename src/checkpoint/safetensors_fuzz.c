/* The reader of safetensors files: every tensor it gives lies within the file and is found by its name. */
#include "checkpoint/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    rb_err err;
    rb_safetensors *s;
    if (rb_safetensors_parse(data, size, "fuzz", &s, &err) != RESBM_OK) return 0;
    uint64_t total = 0;
    for (int i = 0; i < rb_safetensors_count(s); i++) {
        const rb_tensor_in *t = rb_safetensors_at(s, i);
        const uint8_t *p = t->data;
        if (t->bytes && (p < data || p + t->bytes > data + size)) __builtin_trap();
        volatile uint8_t sink = 0; /* reads each byte, so that the sanitizer sees it */
        for (uint64_t j = 0; j < t->bytes; j++) sink = (uint8_t)(sink ^ p[j]);
        if (rb_safetensors_find(s, t->name) != t) __builtin_trap();
        total += t->bytes;
    }
    if (total > size) __builtin_trap();
    rb_safetensors_close(s);
    return 0;
}
