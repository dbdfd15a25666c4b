/* safetensors files (https://github.com/huggingface/safetensors), written and read.
 *
 *     u64 little-endian N | N bytes of JSON, padded with spaces so that the data begins at a multiple of 8 |
 * data
 *     {"__metadata__": {"k": "text"}, "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
 * ...}
 *
 * Offsets count from the end of the JSON; tensors lie without gaps or overlaps, row-major, little-endian.
 * This layer knows names, types and shapes only, nothing of the model. */
#ifndef RB_CHECKPOINT_SAFETENSORS_H
#define RB_CHECKPOINT_SAFETENSORS_H

#include "core/err.h"
#include "device/device.h"

enum {
    RB_ST_NAME = 256,        /* longest tensor name + 1 */
    RB_ST_HEADER = 32 << 20, /* longest JSON that is read */
    RB_ST_TENSORS = 1 << 20  /* most tensors of one file */
};

/* Bytes [offset, offset + n) of a tensor into dst, called in ascending order: how memory of a device is
 * written without a copy of the whole tensor on the host. */
typedef resbm_status (*rb_tensor_read)(void *ctx, int64_t offset, void *dst, size_t n, rb_err *err);

typedef struct rb_tensor_out {
    const char *name;
    rb_dtype dtype;
    int rank; /* 0..4 */
    int64_t shape[4];
    const void *data; /* host memory, or NULL when read is given */
    rb_tensor_read read;
    void *ctx;
} rb_tensor_out;

/* What was written: the manifest's row. */
typedef struct rb_file_sum {
    uint64_t bytes;
    char hash[33]; /* XXH3-128 of the whole file */
} rb_file_sum;

/* Writes path (which is replaced) and fsyncs it; larger element types first, otherwise in the given order. On
 * a fault (full disk, read-only folder, a name twice) the half-written file is removed again. */
resbm_status rb_safetensors_write(const char *path, const rb_tensor_out *tensors, int count, rb_file_sum *out,
                                  rb_err *err);

typedef struct rb_tensor_in {
    const char *name;
    rb_dtype dtype;
    bool f16; /* dtype is RB_BF16, but the 16 bits of a number are IEEE 754's half: a type of files only */
    int rank;
    int64_t shape[4];
    const void *data; /* into the mapped file; may be unaligned in files of other writers */
    uint64_t bytes;
} rb_tensor_in;

typedef struct rb_safetensors rb_safetensors;

/* Maps the file. RESBM_E_FORMAT names the file, the tensor and what is wrong with it: header too long or no
 * JSON, a name twice, an unknown dtype, more than 4 dimensions, offsets that overlap, leave a gap, do not fit
 * shape and dtype or the file's length. The file must not shrink while it is open (step-N folders never
 * change). */
resbm_status rb_safetensors_open(const char *path, rb_safetensors **out, rb_err *err);
/* The same from memory, which must stay; `name` is for messages. */
resbm_status rb_safetensors_parse(const void *p, size_t n, const char *name, rb_safetensors **out,
                                  rb_err *err);
void rb_safetensors_close(rb_safetensors *s); /* NULL is fine */
int rb_safetensors_count(const rb_safetensors *s);
const rb_tensor_in *rb_safetensors_at(const rb_safetensors *s, int i); /* in the order of their data */
const rb_tensor_in *rb_safetensors_find(const rb_safetensors *s, const char *name); /* NULL: not there */
/* These bytes of a tensor's data are not needed for now: they leave this process and the page cache (where the file was
 * mapped), and are read from disk again when they are looked at. */
void rb_safetensors_forget(const rb_safetensors *s, const void *data, size_t n);

#endif
