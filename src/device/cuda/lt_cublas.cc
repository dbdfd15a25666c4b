/* Products by cuBLASLt. The library is not linked but loaded when a device opens: from RESBM_CUBLASLT, from where the
 * system finds libraries, from beside the plugin, or from where it lay when the plugin was built. Its choice of algorithm
 * is asked for once per shape and kept, so that the same shapes give the same bits; with it its descriptions of the
 * matrices, which each of a step's thousands of products would otherwise make and free. */
#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>
extern "C" {
#include "core/err.h"
}
#include "device/cuda/library.h"
#include "device/cuda/lt.h"

#ifndef RB_CUBLASLT_PATH
#define RB_CUBLASLT_PATH ""
#endif
#define STRING2(x) #x
#define STRING(x)  STRING2(x)
static const char library_name[] = "libcublasLt.so." STRING(CUBLAS_VER_MAJOR);

enum { WORKSPACE = 32 << 20 };

/* The functions used of the library. */
#define LT_FUNCTIONS(X)                                                                                      \
    X(cublasLtGetVersion)                                                                                    \
    X(cublasLtCreate)                                                                                        \
    X(cublasLtDestroy)                                                                                       \
    X(cublasLtMatmul)                                                                                        \
    X(cublasLtMatmulDescCreate)                                                                              \
    X(cublasLtMatmulDescDestroy)                                                                             \
    X(cublasLtMatmulDescSetAttribute)                                                                        \
    X(cublasLtMatrixLayoutCreate)                                                                            \
    X(cublasLtMatrixLayoutDestroy)                                                                           \
    X(cublasLtMatmulPreferenceCreate)                                                                        \
    X(cublasLtMatmulPreferenceDestroy)                                                                       \
    X(cublasLtMatmulPreferenceSetAttribute)                                                                  \
    X(cublasLtMatmulAlgoGetHeuristic)                                                                        \
    X(cublasLtGetStatusString)

/* Rows, columns, inner size, leading dimensions, and what else distinguishes products. */
struct shape_key {
    int64_t part[8];
    bool operator==(const shape_key &o) const { return !memcmp(part, o.part, sizeof part); }
};
struct hash_of_shape {
    size_t operator()(const shape_key &k) const {
        uint64_t h = 0;
        for (int64_t p : k.part) h = (h ^ (uint64_t)p) * 0x9e3779b97f4a7c15u, h ^= h >> 29;
        return (size_t)h;
    }
};
/* What the library wants to know of products of one shape. It only reads them. */
struct plan {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, e, c; /* the library's c is our e, its d our c */
    cublasLtMatmulAlgo_t algo;
};

struct rb_lt {
    void *object;
    cublasLtHandle_t handle;
#define MEMBER(f) decltype(&::f) f;
    LT_FUNCTIONS(MEMBER)
#undef MEMBER
    std::mutex lock;
    std::unordered_map<shape_key, plan, hash_of_shape> known; /* whose places stay as it grows */
};

/* --- loading */

/* Another major version may have the same names and other meanings. Its number is 130100 for 13.1, and was 11600 for 11.6. */
static resbm_status check_version(const rb_lt *lt, rb_err *err) {
    int is = (int)lt->cublasLtGetVersion(), unit = is < 100000 ? 1000 : 10000;
    if (is / 10000 == CUBLAS_VER_MAJOR) return RESBM_OK;
    Dl_info info;
    bool named = dladdr((void *)lt->cublasLtGetVersion, &info) && info.dli_fname;
    return rb_fail(err, RESBM_E_UNSUPPORTED,
                   "device cuda: %s is cuBLASLt %d.%d (%d), and the plugin was compiled for cuBLASLt %d: name a "
                   "%s in RESBM_CUBLASLT",
                   named ? info.dli_fname : "what was loaded", is / unit, is % unit / 100, is, CUBLAS_VER_MAJOR,
                   library_name);
}

static resbm_status load(rb_lt *lt, rb_err *err) {
    std::string tried;
    lt->object = rb_find_library("RESBM_CUBLASLT", library_name, RB_CUBLASLT_PATH, &tried);
    if (!lt->object)
        return rb_fail(
            err, RESBM_E_UNSUPPORTED,
            "device cuda: cuBLASLt is missing (%s); install the CUDA toolkit's cuBLAS or the Python package "
            "nvidia-cublas, or name the file in RESBM_CUBLASLT",
            tried.c_str());
#define RESOLVE(f)                                                                                           \
    lt->f = (decltype(&::f))dlsym(lt->object, #f);                                                           \
    if (!lt->f)                                                                                              \
        return rb_fail(err, RESBM_E_UNSUPPORTED, "device cuda: %s has no %s",                                \
                       rb_library_named("RESBM_CUBLASLT", library_name), #f);
    LT_FUNCTIONS(RESOLVE)
#undef RESOLVE
    return check_version(lt, err);
}

static resbm_status lt_status(const rb_lt *lt, cublasStatus_t st, const rb_lt_product *p, rb_err *err) {
    if (st == CUBLAS_STATUS_SUCCESS) return RESBM_OK;
    resbm_status code = st == CUBLAS_STATUS_ALLOC_FAILED ? RESBM_E_MEMORY : RESBM_E_INTERNAL;
    return rb_fail(err, code, "gemm: cuBLASLt returned %s for a product of %lldx%lld by %lld",
                   lt->cublasLtGetStatusString(st), p ? (long long)p->m : 0, p ? (long long)p->n : 0,
                   p ? (long long)p->k : 0);
}
#define LT_TRY(call, p, err) RB_TRY(lt_status(lt, (call), (p), (err)))

resbm_status rb_lt_open(rb_cuda_device *, rb_lt **out, rb_err *err) {
    rb_lt *lt = new (std::nothrow) rb_lt();
    *out = NULL;
    if (!lt) return rb_fail(err, RESBM_E_MEMORY, "device cuda: no memory");
    resbm_status st = load(lt, err);
    if (st == RESBM_OK) st = lt_status(lt, lt->cublasLtCreate(&lt->handle), NULL, err);
    if (st == RESBM_OK)
        *out = lt;
    else
        rb_lt_close(lt);
    return st;
}

size_t rb_lt_working(void) {
    return WORKSPACE;
}

static void free_plan(const rb_lt *lt, plan *w) {
    if (w->a) lt->cublasLtMatrixLayoutDestroy(w->a);
    if (w->b) lt->cublasLtMatrixLayoutDestroy(w->b);
    if (w->e) lt->cublasLtMatrixLayoutDestroy(w->e);
    if (w->c) lt->cublasLtMatrixLayoutDestroy(w->c);
    if (w->desc) lt->cublasLtMatmulDescDestroy(w->desc);
}

void rb_lt_close(rb_lt *lt) {
    if (!lt) return;
    for (auto &at : lt->known) free_plan(lt, &at.second);
    if (lt->handle) lt->cublasLtDestroy(lt->handle);
    delete lt; /* the object stays loaded: it has threads of its own */
}

/* --- a product. cuBLASLt's matrices are column-major: a row-major c = a b is its c^T = b^T a^T on the same memory. */

static cudaDataType_t type_of(const rb_lt_product *p) {
    return p->math == RB_MATH_BF16 ? CUDA_R_16BF : p->math == RB_MATH_F16 ? CUDA_R_16F : CUDA_R_32F;
}

static size_t element_of_c(const rb_lt_product *p) {
    return p->c_half ? 2 : 4;
}

static resbm_status describe(const rb_lt *lt, const rb_lt_product *p, plan *w, rb_err *err) {
    cublasOperation_t first = p->tb ? CUBLAS_OP_T : CUBLAS_OP_N, second = p->ta ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasComputeType_t compute = p->math == RB_MATH_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    cudaDataType_t type_of_c = p->c_half ? CUDA_R_16BF : CUDA_R_32F;
    int32_t pointers = p->scalars ? CUBLASLT_POINTER_MODE_DEVICE : CUBLASLT_POINTER_MODE_HOST;
    uint64_t rows_b = (uint64_t)(p->tb ? p->k : p->n), columns_b = (uint64_t)(p->tb ? p->n : p->k);
    uint64_t rows_a = (uint64_t)(p->ta ? p->m : p->k), columns_a = (uint64_t)(p->ta ? p->k : p->m);
    LT_TRY(lt->cublasLtMatmulDescCreate(&w->desc, compute, CUDA_R_32F), p, err);
    LT_TRY(lt->cublasLtMatmulDescSetAttribute(w->desc, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first), p,
           err);
    LT_TRY(lt->cublasLtMatmulDescSetAttribute(w->desc, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second),
           p, err);
    LT_TRY(lt->cublasLtMatmulDescSetAttribute(w->desc, CUBLASLT_MATMUL_DESC_POINTER_MODE, &pointers,
                                              sizeof pointers),
           p, err);
    LT_TRY(lt->cublasLtMatrixLayoutCreate(&w->a, type_of(p), rows_b, columns_b, p->ldb), p, err);
    LT_TRY(lt->cublasLtMatrixLayoutCreate(&w->b, type_of(p), rows_a, columns_a, p->lda), p, err);
    LT_TRY(lt->cublasLtMatrixLayoutCreate(&w->e, type_of_c, (uint64_t)p->n, (uint64_t)p->m, p->lde), p, err);
    LT_TRY(lt->cublasLtMatrixLayoutCreate(&w->c, type_of_c, (uint64_t)p->n, (uint64_t)p->m, p->ldc), p, err);
    return RESBM_OK;
}

/* What a pointer and the rows behind it are aligned to, as far as products ask: 16 bytes at the most, so that where a tensor
 * lies in a stage's memory (on other numbers of stages elsewhere) changes no choice, and no bit. */
static uint32_t alignment(const void *p, int64_t gap, size_t element) {
    uint64_t bits = (uint64_t)(uintptr_t)p | (uint64_t)gap * element | 16;
    return (uint32_t)(bits & (~bits + 1));
}

static resbm_status set_alignments(const rb_lt *lt, const rb_lt_product *p, cublasLtMatmulPreference_t to,
                                   rb_err *err) {
    size_t element = type_of(p) == CUDA_R_32F ? 4 : 2;
    uint32_t a = alignment(p->b, p->ldb, element), b = alignment(p->a, p->lda, element),
             c = alignment(p->c, p->ldc, element_of_c(p)), e = alignment(p->e, p->lde, element_of_c(p));
    LT_TRY(lt->cublasLtMatmulPreferenceSetAttribute(to, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                                    &a, sizeof a),
           p, err);
    LT_TRY(lt->cublasLtMatmulPreferenceSetAttribute(to, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                                                    &b, sizeof b),
           p, err);
    LT_TRY(lt->cublasLtMatmulPreferenceSetAttribute(to, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                                    &e, sizeof e),
           p, err);
    LT_TRY(lt->cublasLtMatmulPreferenceSetAttribute(to, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                                                    &c, sizeof c),
           p, err);
    return RESBM_OK;
}

static resbm_status prefer(const rb_lt *lt, const rb_lt_product *p, cublasLtMatmulPreference_t to,
                           rb_err *err) {
    uint64_t room = WORKSPACE;
    /* Parts of a sum are kept in f32: the library would add those of a result in bf16 in bf16. */
    uint32_t sums = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    LT_TRY(lt->cublasLtMatmulPreferenceSetAttribute(to, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room,
                                                    sizeof room),
           p, err);
    LT_TRY(lt->cublasLtMatmulPreferenceSetAttribute(to, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &sums,
                                                    sizeof sums),
           p, err);
    return set_alignments(lt, p, to, err);
}

static resbm_status ask(rb_lt *lt, const rb_lt_product *p, plan *w, rb_err *err) {
    cublasLtMatmulPreference_t wish;
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    LT_TRY(lt->cublasLtMatmulPreferenceCreate(&wish), p, err);
    resbm_status st = prefer(lt, p, wish, err);
    if (st == RESBM_OK)
        st = lt_status(lt,
                       lt->cublasLtMatmulAlgoGetHeuristic(lt->handle, w->desc, w->a, w->b, w->e, w->c, wish, 1,
                                                          &result, &found),
                       p, err);
    lt->cublasLtMatmulPreferenceDestroy(wish);
    if (st != RESBM_OK) return st;
    if (!found) return lt_status(lt, CUBLAS_STATUS_NOT_SUPPORTED, p, err);
    LT_TRY(result.state, p, err);
    w->algo = result.algo;
    return RESBM_OK;
}

static shape_key key_of(const rb_lt_product *p) {
    size_t element = type_of(p) == CUDA_R_32F ? 4 : 2;
    int what = (int)p->math | p->ta << 4 | p->tb << 5 | (p->scalars != NULL) << 6 | p->c_half << 7 |
               (int)alignment(p->a, p->lda, element) << 8 | (int)alignment(p->b, p->ldb, element) << 13 |
               (int)alignment(p->c, p->ldc, element_of_c(p)) << 18 |
               (int)alignment(p->e, p->lde, element_of_c(p)) << 23;
    return shape_key{{p->m, p->n, p->k, p->lda, p->ldb, p->ldc, p->lde, what}};
}

/* The plan of p's shape, made when it is first met. */
static resbm_status plan_of(rb_lt *lt, const rb_lt_product *p, const plan **out, rb_err *err) {
    shape_key key = key_of(p);
    std::lock_guard<std::mutex> hold(lt->lock);
    auto at = lt->known.find(key);
    if (at == lt->known.end()) {
        plan w = {};
        resbm_status st = describe(lt, p, &w, err);
        if (st == RESBM_OK) st = ask(lt, p, &w, err);
        if (st != RESBM_OK) {
            free_plan(lt, &w);
            return st;
        }
        at = lt->known.emplace(key, w).first;
    }
    *out = &at->second;
    return RESBM_OK;
}

resbm_status rb_lt_run(rb_lt *lt, rb_cuda_queue *q, const rb_lt_product *p, rb_err *err) {
    const plan *w;
    void *room;
    const void *alpha = p->scalars ? (const void *)p->scalars : &p->alpha;
    const void *beta = p->scalars ? (const void *)(p->scalars + 1) : &p->beta;
    RB_CUDA_TRY(rb_cuda_choose(q->index), "choosing the card", err);
    RB_TRY(plan_of(lt, p, &w, err));
    RB_TRY(rb_cuda_scratch(&q->base, 1, WORKSPACE, &room, err));
    return lt_status(lt,
                     lt->cublasLtMatmul(lt->handle, w->desc, alpha, p->b, w->a, p->a, w->b, beta, p->e, w->e,
                                        p->c, w->c, &w->algo, room, WORKSPACE, q->stream),
                     p, err);
}
