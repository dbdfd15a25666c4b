/* Streams, events, copies and memory of the emulated runtime. A stream is a host thread that does what it is handed in
 * order; RB_CUDA_EMU_LATE_US makes every item wait that many microseconds first. RB_CUDA_EMU_MEMORY is the size of an
 * emulated card in bytes. RB_CUDA_EMU_CODE is what its kernels were compiled for (75; 0: nothing that fits).
 * RB_CUDA_EMU_BROKEN=1 is a kernel that has gone wrong before memory is asked for. RB_CUDA_EMU_DRIVER is the CUDA version of the
 * driver (12040: 12.4; 0: there is none), RB_CUDA_EMU_CARDS how many cards it finds. */
#include <stdlib.h>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <unistd.h>
#include "device/cuda/emu/emu.h"

struct emu_stream {
    std::mutex lock;
    std::condition_variable changed;
    std::deque<std::function<void()>> work;
    uint64_t queued = 0, done = 0;
    bool closing = false;
    std::thread thread;
};
struct emu_event {
    std::mutex lock; /* another thread's stream may be told to wait for it */
    emu_stream *stream = nullptr;
    uint64_t ticket = 0;
    bool timed = false;
    std::chrono::steady_clock::time_point passed;
};

namespace {
std::mutex memory_lock;
struct block {
    size_t bytes;
    int card;
};
std::map<void *, block> blocks;
enum { CARDS = 2, RUNTIME = 13000 };
size_t taken[CARDS];
std::map<const char *, size_t> pinned; /* host memory that a card may copy from and to on its own */
thread_local int chosen; /* card of cudaSetDevice */

size_t from_environment(const char *name, size_t fallback) {
    const char *text = getenv(name);
    return text && *text ? (size_t)strtoull(text, nullptr, 10) : fallback;
}
size_t card() {
    return from_environment("RB_CUDA_EMU_MEMORY", (size_t)8 << 30);
}

void serve(emu_stream *s) {
    size_t late = from_environment("RB_CUDA_EMU_LATE_US", 0);
    std::unique_lock<std::mutex> hold(s->lock);
    for (;;) {
        s->changed.wait(hold, [=] { return s->closing || !s->work.empty(); });
        if (s->work.empty()) return;
        std::function<void()> item = std::move(s->work.front());
        s->work.pop_front();
        hold.unlock();
        if (late) usleep((useconds_t)late);
        item();
        item = nullptr;
        hold.lock();
        s->done++;
        s->changed.notify_all();
    }
}

void wait_for(emu_stream *s, uint64_t ticket) {
    std::unique_lock<std::mutex> hold(s->lock);
    s->changed.wait(hold, [=] { return s->done >= ticket; });
}
} // namespace

void emu_enqueue(cudaStream_t s, std::function<void()> work) {
    std::lock_guard<std::mutex> hold(s->lock);
    s->work.push_back(std::move(work));
    s->queued++;
    s->changed.notify_all();
}

const char *cudaGetErrorString(cudaError_t e) {
    static const char *const text[] = {"no error",       "out of memory",
                                       "no device",      "no such device",
                                       "illegal access", "no kernel image is available for the device",
                                       "the driver is insufficient"};
    return text[e];
}
cudaError_t cudaGetLastError() {
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = (int)from_environment("RB_CUDA_EMU_DRIVER", RUNTIME);
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = RUNTIME;
    return cudaSuccess;
}
/* A driver runs what was built for its own major version. */
cudaError_t cudaGetDeviceCount(int *n) {
    int driver = 0;
    cudaDriverGetVersion(&driver);
    *n = 0;
    if (driver / 1000 < RUNTIME / 1000) return cudaErrorInsufficientDriver;
    *n = (int)from_environment("RB_CUDA_EMU_CARDS", CARDS);
    return *n ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int i) {
    if (i < 0 || i >= CARDS) return cudaErrorInvalidDevice;
    chosen = i;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *i) {
    *i = chosen;
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *a, const void *) {
    cudaDeviceProp p;
    cudaGetDeviceProperties(&p, chosen);
    a->ptxVersion = (int)from_environment("RB_CUDA_EMU_CODE", (size_t)(p.major * 10 + p.minor));
    return a->ptxVersion ? cudaSuccess : cudaErrorNoKernelImageForDevice;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int i) {
    *p = cudaDeviceProp();
    strcpy(p->name, "emulated");
    p->totalGlobalMem = card();
    p->major = i ? 7 : 8; /* the second one is as old as can be: f16 instead of bf16 */
    p->minor = i ? 5 : 0;
    p->multiProcessorCount = 4;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    std::lock_guard<std::mutex> hold(memory_lock);
    *total = card();
    *free = *total - taken[chosen];
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **p, size_t bytes) {
    std::lock_guard<std::mutex> hold(memory_lock);
    *p = nullptr;
    if (from_environment("RB_CUDA_EMU_BROKEN", 0)) return cudaErrorIllegalAddress;
    if (bytes > card() - taken[chosen] || posix_memalign(p, 256, bytes ? bytes : 1))
        return cudaErrorMemoryAllocation;
    if (bytes <= (size_t)64 << 20) memset(*p, 0xff, bytes);
    blocks[*p] = block{bytes, chosen};
    taken[chosen] += bytes;
    return cudaSuccess;
}
cudaError_t cudaFree(void *p) {
    std::lock_guard<std::mutex> hold(memory_lock);
    auto at = blocks.find(p);
    if (at == blocks.end()) return p ? cudaErrorInvalidDevice : cudaSuccess;
    taken[at->second.card] -= at->second.bytes;
    blocks.erase(at);
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t bytes) {
    if (posix_memalign(p, 4096, bytes)) return cudaErrorMemoryAllocation;
    std::lock_guard<std::mutex> hold(memory_lock);
    pinned[(const char *)*p] = bytes;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p) {
    std::lock_guard<std::mutex> hold(memory_lock);
    pinned.erase((const char *)p);
    free(p);
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
    *s = new emu_stream();
    (*s)->thread = std::thread(serve, *s);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    {
        std::lock_guard<std::mutex> hold(s->lock);
        s->closing = true;
        s->changed.notify_all();
    }
    s->thread.join();
    delete s;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    uint64_t last;
    {
        std::lock_guard<std::mutex> hold(s->lock);
        last = s->queued;
    }
    wait_for(s, last);
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) {
    *e = new emu_event();
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *e) {
    *e = new emu_event();
    (*e)->timed = true;
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to) {
    *ms = std::chrono::duration<float, std::milli>(to->passed - from->passed).count();
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    delete e;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
    if (e->timed) emu_enqueue(s, [=] { e->passed = std::chrono::steady_clock::now(); });
    std::lock_guard<std::mutex> hold(s->lock), also(e->lock);
    e->stream = s;
    e->ticket = s->queued;
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    if (e->stream) wait_for(e->stream, e->ticket);
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
    std::lock_guard<std::mutex> hold(e->lock);
    emu_stream *of = e->stream;
    uint64_t ticket = e->ticket;
    if (of) emu_enqueue(s, [=] { wait_for(of, ticket); });
    return cudaSuccess;
}
/* A card takes ordinary memory too, but lets the host wait meanwhile: nobody here is to. */
static bool is_pinned(const void *p, size_t bytes) {
    std::lock_guard<std::mutex> hold(memory_lock);
    auto at = pinned.upper_bound((const char *)p);
    return at != pinned.begin() && (--at)->first + at->second >= (const char *)p + bytes;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t s) {
    if (kind != cudaMemcpyDeviceToDevice && !is_pinned(kind == cudaMemcpyHostToDevice ? from : to, bytes))
        return cudaErrorIllegalAddress;
    emu_enqueue(s, [=] { memcpy(to, from, bytes); });
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int byte, size_t bytes, cudaStream_t s) {
    emu_enqueue(s, [=] { memset(p, byte, bytes); });
    return cudaSuccess;
}
