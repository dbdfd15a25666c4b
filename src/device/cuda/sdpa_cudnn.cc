/* Attention by cuDNN, whose graphs its header-only frontend builds. The library is not linked but loaded when a device opens
 * that is to have it: from RESBM_CUDNN, from where the system finds libraries, from beside the plugin, or from where it lay when
 * the plugin was built. Plans whose sums depend on chance are left out, so that the same shapes give the same bits. */
#include "device/cuda/library.h"
#include "device/cuda/sdpa_runtime.h"

/* The frontend opens CUDA's runtime by its name; it gets the one inside this object. */
#define dlopen rb_sdpa_dlopen
#define dlsym  rb_sdpa_dlsym
#include <cudnn_frontend.h>
#undef dlopen
#undef dlsym

#include <stdio.h>
#include <stdlib.h>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>
extern "C" {
#include "core/err.h"
}
#include "device/cuda/sdpa.h"

#ifndef RB_CUDNN_PATH
#define RB_CUDNN_PATH ""
#endif
#define STRING2(x) #x
#define STRING(x)  STRING2(x)

namespace cudnn_frontend {
void *cudnn_dlhandle; /* where the frontend looks for cuDNN's functions */
}
namespace fe = cudnn_frontend;

static const char library_name[] = "libcudnn.so." STRING(CUDNN_MAJOR);

/* Shape and strides of a call. */
typedef std::vector<int64_t> shape_key;
struct plan {
    std::shared_ptr<fe::graph::Graph> graph;
    size_t room;
};
/* Whom a graph is for: a card through its handle, or one that is only described. */
struct target {
    cudnnHandle_t handle;
    std::shared_ptr<fe::DeviceProperties> card;
    int sm;
};

struct rb_sdpa {
    target to;
    std::mutex lock;
    std::map<shape_key, plan> known;
};

/* --- faults. The frontend returns some and throws others. */

static resbm_status refused(const char *what, const std::string &why, rb_err *err) {
    size_t end = why.find('\n');
    return rb_fail(err, RESBM_E_UNSUPPORTED, "cuDNN's attention, %s: %.200s", what,
                   why.substr(0, end).c_str());
}

template <class F> static resbm_status guarded(const char *what, F act, rb_err *err) {
    try {
        fe::error_t e = act();
        return e.is_good() ? RESBM_OK : refused(what, e.get_message(), err);
    } catch (const std::bad_alloc &) {
        return rb_fail(err, RESBM_E_MEMORY, "device cuda: no memory");
    } catch (const std::exception &e) {
        return refused(what, e.what(), err);
    }
}

/* --- loading */

enum { LEAST = 90800 }; /* the first that takes a card's description; 92801 is 9.28.1 */
static size_t loaded_version;

static std::string version_text(size_t number) {
    int v = (int)number;
    return "cuDNN " + std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." +
           std::to_string(v % 100);
}

/* Loaded once and never let go of: it has threads of its own. */
static resbm_status load(rb_err *err) {
    static std::mutex lock;
    std::lock_guard<std::mutex> hold(lock);
    std::string tried;
    if (fe::cudnn_dlhandle) return RESBM_OK;
    void *object = rb_find_library("RESBM_CUDNN", library_name, RB_CUDNN_PATH, &tried);
    if (!object)
        return rb_fail(
            err, RESBM_E_UNSUPPORTED,
            "cuDNN is missing (%s); install the Python package nvidia-cudnn-cu%d, or name the file in "
            "RESBM_CUDNN",
            tried.c_str(), CUDART_VERSION / 1000);
    size_t (*version)(void) = (size_t(*)(void))dlsym(object, "cudnnGetVersion");
    if (!version)
        return rb_fail(err, RESBM_E_UNSUPPORTED, "%s was loaded, but is not cuDNN",
                       rb_library_named("RESBM_CUDNN", library_name));
    if (version() < LEAST)
        return rb_fail(err, RESBM_E_UNSUPPORTED,
                       "cuDNN %d.%d is the least whose attention is taken; there is %s", LEAST / 10000,
                       LEAST / 100 % 100, version_text(version()).c_str());
    loaded_version = version();
    fe::cudnn_dlhandle = object;
    auto runtime = [&]() -> fe::error_t { /* which the frontend looks for when a graph first runs */
        int number = 0;
        fe::detail::cuda_runtime_get_version(&number);
        fe::detail::get_driver_entry_point("cuCtxGetCurrent");
        return {};
    };
    resbm_status st = guarded("CUDA's runtime", runtime, err);
    if (st != RESBM_OK) fe::cudnn_dlhandle = NULL;
    return st;
}

#define FE_TRY(call)                                                                                         \
    do {                                                                                                     \
        fe::error_t fault = (call);                                                                          \
        if (fault.is_bad()) return fault;                                                                    \
    } while (0)

static fe::error_t as_fault(cudnnStatus_t st) {
    if (st == CUDNN_STATUS_SUCCESS) return {};
    return {fe::error_code_t::CUDNN_BACKEND_API_FAILED, fe::detail::get_error_string(st)};
}

/* --- graphs */

enum uid { Q = 1, K, V, OUT, LSE, DOUT, DQ, DK, DV };

typedef std::shared_ptr<fe::graph::Tensor_attributes> tensor;
typedef std::vector<int64_t> sizes;

static sizes strides(const rb_sdpa_rows &r) {
    return {r.per_b, r.per_h, r.per_t, 1};
}
static fe::graph::Tensor_attributes heads(uid id, const rb_sdpa_call *c, int64_t n, const rb_sdpa_rows &r) {
    return fe::graph::Tensor_attributes().set_uid(id).set_dim({c->B, n, c->T, c->D}).set_stride(strides(r));
}
static void result(const tensor &t, uid id, const rb_sdpa_call *c, int64_t n, const rb_sdpa_rows &r) {
    t->set_output(true).set_uid(id).set_dim({c->B, n, c->T, c->D}).set_stride(strides(r));
}
static sizes lse_dims(const rb_sdpa_call *c) {
    return {c->B, c->H, c->T, 1};
}
static sizes lse_strides(const rb_sdpa_call *c) {
    return {c->H * c->T, c->T, 1, 1};
}

static void add_forward(fe::graph::Graph *g, const rb_sdpa_call *c, const tensor &q, const tensor &k,
                        const tensor &v) {
    auto how = fe::graph::SDPA_attributes()
                   .set_name("attention")
                   .set_generate_stats(true)
                   .set_attn_scale(c->scale)
                   .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
                   .set_diagonal_band_right_bound(0);
    auto made = g->sdpa(q, k, v, how);
    result(made[0], OUT, c, c->H, c->out);
    made[1]
        ->set_output(true)
        .set_uid(LSE)
        .set_dim(lse_dims(c))
        .set_stride(lse_strides(c))
        .set_data_type(fe::DataType_t::FLOAT);
}

static void add_backward(fe::graph::Graph *g, const rb_sdpa_call *c, const tensor &q, const tensor &k,
                         const tensor &v) {
    auto how = fe::graph::SDPA_backward_attributes()
                   .set_name("attention backward")
                   .set_attn_scale(c->scale)
                   .set_deterministic_algorithm(true)
                   .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
                   .set_diagonal_band_right_bound(0);
    tensor out = g->tensor(heads(OUT, c, c->H, c->out)), dout = g->tensor(heads(DOUT, c, c->H, c->dout)),
           lse = g->tensor(fe::graph::Tensor_attributes()
                               .set_uid(LSE)
                               .set_dim(lse_dims(c))
                               .set_stride(lse_strides(c))
                               .set_data_type(fe::DataType_t::FLOAT));
    auto made = g->sdpa_backward(q, k, v, out, dout, lse, how);
    result(made[0], DQ, c, c->H, c->dq);
    result(made[1], DK, c, c->G, c->dk);
    result(made[2], DV, c, c->G, c->dv);
}

static fe::error_t build(fe::graph::Graph *g, const target &to) {
    FE_TRY(g->validate());
    FE_TRY(to.card ? g->build_operation_graph() : g->build_operation_graph(to.handle));
    FE_TRY(g->create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}));
    g->deselect_numeric_notes({fe::NumericalNote_t::NONDETERMINISTIC});
    return g->build_plans();
}

static fe::error_t make(const rb_sdpa_call *c, const target &to, plan *out) {
    auto g = std::make_shared<fe::graph::Graph>();
    g->set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    g->set_sm_version(to.sm);
    if (to.card) g->set_device_properties(to.card);
    tensor q = g->tensor(heads(Q, c, c->H, c->q)), k = g->tensor(heads(K, c, c->G, c->k)),
           v = g->tensor(heads(V, c, c->G, c->v));
    if (c->backward)
        add_backward(g.get(), c, q, k, v);
    else
        add_forward(g.get(), c, q, k, v);
    int64_t room = 0;
    FE_TRY(build(g.get(), to));
    FE_TRY(g->get_workspace_size(room));
    *out = plan{g, (size_t)room};
    return {};
}

static resbm_status make_plan(const rb_sdpa_call *c, const target &to, plan *out, rb_err *err) {
    char what[128];
    snprintf(what, sizeof what, "%s for %lld x %lld queries, %lld heads of %lld, %lld of keys",
             c->backward ? "backward" : "forward", (long long)c->B, (long long)c->T, (long long)c->H,
             (long long)c->D, (long long)c->G);
    return guarded(
        what, [&] { return make(c, to, out); }, err);
}

/* --- a device's */

resbm_status rb_sdpa_open(int index, int major, int minor, rb_sdpa **out, rb_err *err) {
    *out = NULL;
    RB_TRY(load(err));
    std::unique_ptr<rb_sdpa> s(new (std::nothrow) rb_sdpa());
    if (!s) return rb_fail(err, RESBM_E_MEMORY, "device cuda: no memory");
    s->to.sm = major * 10 + minor;
    if (cudaSetDevice(index) != cudaSuccess)
        return rb_fail(err, RESBM_E_INTERNAL, "device cuda:%d cannot be chosen", index);
    RB_TRY(guarded(
        "on this card", [&] { return as_fault(fe::detail::create_handle(&s->to.handle)); }, err));
    *out = s.release();
    return RESBM_OK;
}

void rb_sdpa_close(rb_sdpa *s) {
    if (!s) return;
    s->known.clear();
    if (s->to.handle) fe::detail::destroy_handle(s->to.handle);
    delete s;
}

void rb_sdpa_describe(char *text, size_t size) {
    rb_err err;
    bool there = load(&err) == RESBM_OK;
    snprintf(text, size, "%s", there ? version_text(loaded_version).c_str() : err.text);
}

static shape_key key_of(const rb_sdpa_call *c) {
    shape_key key = {c->backward, c->B, c->T, c->H, c->G, c->D, (int64_t)(c->scale * 1e9f)};
    const rb_sdpa_rows *rows[] = {&c->q, &c->k, &c->v, &c->out, &c->dout, &c->dq, &c->dk, &c->dv};
    for (size_t i = 0; i < (c->backward ? 8 : 4); i++)
        key.insert(key.end(), {rows[i]->per_b, rows[i]->per_t, rows[i]->per_h});
    return key;
}

/* s is locked. */
static resbm_status find(rb_sdpa *s, const rb_sdpa_call *c, const plan **out, rb_err *err) {
    shape_key key = key_of(c);
    auto at = s->known.find(key);
    if (at == s->known.end()) {
        plan made;
        RB_TRY(make_plan(c, s->to, &made, err));
        at = s->known.emplace(std::move(key), made).first;
    }
    *out = &at->second;
    return RESBM_OK;
}

resbm_status rb_sdpa_prepare(rb_sdpa *s, const rb_sdpa_call *c, size_t *room, rb_err *err) {
    std::lock_guard<std::mutex> hold(s->lock);
    const plan *p = NULL;
    RB_TRY(find(s, c, &p, err));
    *room = p->room;
    return RESBM_OK;
}

resbm_status rb_sdpa_run(rb_sdpa *s, cudaStream_t stream, const rb_sdpa_call *c, void *room, rb_err *err) {
    std::lock_guard<std::mutex> hold(s->lock);
    const plan *p = NULL;
    RB_TRY(find(s, c, &p, err));
    std::unordered_map<int64_t, void *> at = {
        {Q, c->q.data}, {K, c->k.data}, {V, c->v.data}, {OUT, c->out.data}, {LSE, c->lse}};
    if (c->backward) at.insert({{DOUT, c->dout.data}, {DQ, c->dq.data}, {DK, c->dk.data}, {DV, c->dv.data}});
    auto queue = [&]() -> fe::error_t {
        FE_TRY(as_fault(fe::detail::set_stream(s->to.handle, stream)));
        return p->graph->execute(s->to.handle, at, room);
    };
    resbm_status st = guarded("queueing it", queue, err);
    return st == RESBM_E_UNSUPPORTED ? rb_err_context(err, RESBM_E_INTERNAL, "device cuda: ") : st;
}

resbm_status rb_sdpa_try(const char *card, int sm, const rb_sdpa_call *c, size_t *room, rb_err *err) {
    target to = {NULL, std::make_shared<fe::DeviceProperties>(), sm};
    plan made;
    RB_TRY(load(err));
    std::string text = card;
    RB_TRY(guarded(
        "the card's description",
        [&] { return to.card->deserialize(std::vector<uint8_t>(text.begin(), text.end())); }, err));
    RB_TRY(make_plan(c, to, &made, err));
    *room = made.room;
    return RESBM_OK;
}
