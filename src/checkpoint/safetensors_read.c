/* The reader: every number of the header is checked before it is used. */
#include "checkpoint/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/bytes.h"

struct rb_safetensors {
    char *name;
    void *map; /* NULL when parsed from memory */
    size_t map_bytes;
    int fd; /* of the map */
    const uint8_t *data;
    uint64_t data_bytes;
    json_t *header; /* owns the names */
    rb_tensor_in *tensor;
    int *by_name, count;
};

static resbm_status bad(const rb_safetensors *s, rb_err *err, const char *tensor, const char *what) {
    return rb_fail(err, RESBM_E_FORMAT, "%s: %s%.100s%s%s", s->name, *tensor ? "tensor " : "", tensor,
                   *tensor ? ": " : "", what);
}

static bool find_dtype(const json_t *v, rb_dtype *out) {
    static const struct {
        const char *name;
        rb_dtype dtype;
    } known[] = {{"F32", RB_F32}, {"BF16", RB_BF16}, {"I32", RB_I32},
                 {"U8", RB_U8},   {"F64", RB_F64},   {"I64", RB_I64}};
    for (size_t i = 0; i < sizeof known / sizeof *known && json_is_string(v); i++)
        if (!strcmp(json_string_value(v), known[i].name)) {
            *out = known[i].dtype;
            return true;
        }
    return false;
}

/* A non-negative whole number. */
static bool get_count(const json_t *v, int64_t *out) {
    *out = json_is_integer(v) ? (int64_t)json_integer_value(v) : -1;
    return *out >= 0;
}

/* Shape and the bytes it takes, refusing products that overflow. */
static const char *read_shape(const json_t *shape, rb_tensor_in *t) {
    if (!json_is_array(shape)) return "shape is no list";
    if (json_array_size(shape) > 4) return "more than 4 dimensions";
    t->rank = (int)json_array_size(shape);
    int64_t n = (int64_t)rb_dtype_size(t->dtype);
    for (int i = 0; i < 4; i++) t->shape[i] = 1;
    for (int i = 0; i < t->rank; i++) {
        if (!get_count(json_array_get(shape, (size_t)i), &t->shape[i])) return "a dimension is no count";
        if (__builtin_mul_overflow(n, t->shape[i], &n)) return "shape is too large";
    }
    t->bytes = (uint64_t)n;
    return NULL;
}

static const char *read_entry(const rb_safetensors *s, const json_t *entry, rb_tensor_in *t) {
    if (!json_is_object(entry) || json_object_size(entry) != 3)
        return "entry is not {dtype, shape, data_offsets}";
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    t->f16 = type && !strcmp(type, "F16");
    t->dtype = RB_BF16;
    if (!t->f16 && !find_dtype(json_object_get(entry, "dtype"), &t->dtype))
        return "dtype is not F32, F64, BF16, F16, I32, I64 or U8";
    const char *why = read_shape(json_object_get(entry, "shape"), t);
    if (why) return why;
    const json_t *offsets = json_object_get(entry, "data_offsets");
    int64_t begin, end;
    if (json_array_size(offsets) != 2 || !get_count(json_array_get(offsets, 0), &begin) ||
        !get_count(json_array_get(offsets, 1), &end))
        return "data_offsets are not two counts";
    if (end < begin || (uint64_t)end > s->data_bytes)
        return "data_offsets lie outside the file (is it cut short?)";
    if ((uint64_t)(end - begin) != t->bytes) return "data_offsets do not fit dtype and shape";
    t->data = s->data + begin;
    return NULL;
}

static int by_data(const void *a, const void *b) {
    const rb_tensor_in *x = a, *y = b;
    uintptr_t p = (uintptr_t)x->data, q = (uintptr_t)y->data;
    if (p != q) return p < q ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1; /* empty ones before what begins there */
    return strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b, void *ctx) {
    const rb_tensor_in *t = ctx;
    return strcmp(t[*(const int *)a].name, t[*(const int *)b].name);
}

static resbm_status check_contiguous(const rb_safetensors *s, rb_err *err) {
    const uint8_t *at = s->data;
    for (int i = 0; i < s->count; i++) {
        if ((const uint8_t *)s->tensor[i].data != at)
            return bad(s, err, s->tensor[i].name,
                       (const uint8_t *)s->tensor[i].data < at ? "overlaps another" : "a gap lies before it");
        at += s->tensor[i].bytes;
    }
    if (at != s->data + s->data_bytes) return bad(s, err, "", "bytes behind the last tensor");
    return RESBM_OK;
}

static resbm_status read_tensors(rb_safetensors *s, rb_err *err) {
    const char *name;
    json_t *entry;
    size_t most = json_object_size(s->header);
    if (most > RB_ST_TENSORS) return bad(s, err, "", "too many tensors");
    s->tensor = calloc(most + 1, sizeof *s->tensor);
    s->by_name = calloc(most + 1, sizeof *s->by_name);
    if (!s->tensor || !s->by_name) return rb_fail(err, RESBM_E_MEMORY, "no memory to read %s", s->name);
    json_object_foreach(s->header, name, entry) {
        if (!strcmp(name, "__metadata__")) continue;
        rb_tensor_in *t = &s->tensor[s->count++];
        t->name = name;
        if (!*name || strlen(name) >= RB_ST_NAME) return bad(s, err, name, "its name is empty or too long");
        const char *why = read_entry(s, entry, t);
        if (why) return bad(s, err, name, why);
    }
    qsort(s->tensor, (size_t)s->count, sizeof *s->tensor, by_data);
    for (int i = 0; i < s->count; i++) s->by_name[i] = i;
    qsort_r(s->by_name, (size_t)s->count, sizeof *s->by_name, by_name, s->tensor);
    return check_contiguous(s, err);
}

static resbm_status read_header(rb_safetensors *s, const uint8_t *p, size_t n, rb_err *err) {
    if (n < 8) return bad(s, err, "", "shorter than the 8 bytes every safetensors file begins with");
    uint64_t len = rb_get64(p);
    if (len > RB_ST_HEADER || len > n - 8)
        return bad(s, err, "", "the header is longer than the file or than 32 MiB");
    json_error_t why;
    s->header = json_loadb((const char *)p + 8, (size_t)len, JSON_REJECT_DUPLICATES, &why);
    if (!s->header)
        return rb_fail(err, RESBM_E_FORMAT, "%s: header, byte %d: %s", s->name, why.position, why.text);
    if (!json_is_object(s->header)) return bad(s, err, "", "the header is no JSON object");
    s->data = p + 8 + len;
    s->data_bytes = n - 8 - len;
    return read_tensors(s, err);
}

resbm_status rb_safetensors_parse(const void *p, size_t n, const char *name, rb_safetensors **out,
                                  rb_err *err) {
    *out = NULL;
    rb_safetensors *s = calloc(1, sizeof *s);
    if (!s || !(s->name = strdup(name))) {
        free(s);
        return rb_fail(err, RESBM_E_MEMORY, "no memory to read %s", name);
    }
    resbm_status st = read_header(s, p, n, err);
    if (st == RESBM_OK)
        *out = s;
    else
        rb_safetensors_close(s);
    return st;
}

static resbm_status map_file(const char *path, void **map, size_t *bytes, int *out, rb_err *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat sb;
    if (fd < 0 || fstat(fd, &sb)) {
        int saved = errno;
        if (fd >= 0) close(fd);
        return rb_fail_errno(err, saved, "cannot open %s", path);
    }
    resbm_status st = RESBM_OK;
    if (!S_ISREG(sb.st_mode) || sb.st_size < 8)
        st = rb_fail(err, RESBM_E_FORMAT, "%s is no file of at least 8 bytes", path);
    *bytes = (size_t)sb.st_size;
    if (st == RESBM_OK && (*map = mmap(NULL, *bytes, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED)
        st = rb_fail_errno(err, errno, "cannot map %s", path);
    if (st != RESBM_OK) close(fd);
    *out = fd;
    return st;
}

resbm_status rb_safetensors_open(const char *path, rb_safetensors **out, rb_err *err) {
    void *map = NULL;
    size_t bytes = 0;
    int fd = -1;
    *out = NULL;
    RB_TRY(map_file(path, &map, &bytes, &fd, err));
    resbm_status st = rb_safetensors_parse(map, bytes, path, out, err);
    if (st != RESBM_OK) {
        munmap(map, bytes);
        close(fd);
        return st;
    }
    (*out)->map = map;
    (*out)->map_bytes = bytes;
    (*out)->fd = fd;
    return RESBM_OK;
}

void rb_safetensors_close(rb_safetensors *s) {
    if (!s) return;
    if (s->map) {
        munmap(s->map, s->map_bytes);
        close(s->fd);
    }
    json_decref(s->header);
    free(s->tensor);
    free(s->by_name);
    free(s->name);
    free(s);
}

/* Whole pages only: the others hold bytes of a neighbour, or are asked for with it. */
void rb_safetensors_forget(const rb_safetensors *s, const void *data, size_t n) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t from = (size_t)((const char *)data - (const char *)s->map), to = (from + n) / page * page;
    from = (from + page - 1) / page * page;
    if (!s->map || to <= from) return;
    madvise((char *)s->map + from, to - from, MADV_DONTNEED);
    posix_fadvise(s->fd, (off_t)from, (off_t)(to - from), POSIX_FADV_DONTNEED);
}

int rb_safetensors_count(const rb_safetensors *s) {
    return s->count;
}
const rb_tensor_in *rb_safetensors_at(const rb_safetensors *s, int i) {
    return &s->tensor[i];
}

const rb_tensor_in *rb_safetensors_find(const rb_safetensors *s, const char *name) {
    int low = 0, high = s->count;
    while (low < high) {
        int mid = (low + high) / 2, c = strcmp(s->tensor[s->by_name[mid]].name, name);
        if (!c) return &s->tensor[s->by_name[mid]];
        if (c < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}
