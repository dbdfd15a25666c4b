/* A grid's blocks one after the other, a block's threads as fibres: each runs until it has to wait for others, and
 * the next one goes on. makecontext starts a fibre, once for all the blocks it will run; _setjmp and _longjmp change
 * between them, which costs no system call. */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>
#include "device/cuda/emu/emu.h"

#undef _FORTIFY_SOURCE

thread_local emu_place emu_at;
thread_local bool emu_f16;

namespace {

enum { STACK = 256 << 10, MOST = 1024, LANES = 32 };

struct fibre {
    jmp_buf at;
    char *stack;
    bool begun, done;
};
struct meeting {
    int here;
    unsigned times;
    void (*act)(void *const *lane);
    void *lane[LANES];
};
struct runner {
    fibre f[MOST];
    meeting warp[MOST / LANES];
    int here;       /* at the block's barrier */
    unsigned times; /* the barrier has opened */
    int n, current, live, idle;
    jmp_buf out;
    const std::function<void()> *kernel;
    ~runner() {
        for (fibre &x : f)
            if (x.stack) munmap(x.stack, STACK);
    }
};
thread_local runner *run;

[[noreturn]] void broken(const char *why) {
    fprintf(stderr, "emulated kernel: %s (block %u,%u thread %u)\n", why, emu_at.block.x, emu_at.block.y,
            emu_at.thread.x);
    __builtin_trap();
}

void place(int i) {
    emu_at.thread = dim3((unsigned)i % emu_at.block_size.x, (unsigned)i / emu_at.block_size.x, 0);
}

void body();

[[noreturn]] void enter(int i) {
    fibre *x = &run->f[i];
    run->current = i;
    place(i);
    if (x->begun) _longjmp(x->at, 1);
    x->begun = true;
    ucontext_t c;
    getcontext(&c);
    c.uc_stack.ss_sp = x->stack;
    c.uc_stack.ss_size =
        (size_t)(STACK - i % 61 * 1088); /* frames at one place in all stacks share few lines of cache */
    c.uc_link = nullptr;
    makecontext(&c, body, 0);
    setcontext(&c);
    broken("no context");
}

int next_of(int i) {
    do i = i + 1 < run->n ? i + 1 : 0;
    while (run->f[i].done);
    return i;
}

/* One thread of every block: behind its end in one it lies still until the next one begins. */
void body() {
    for (;;) {
        (*run->kernel)();
        int mine = run->current;
        run->f[mine].done = true;
        run->idle = 0;
        if (_setjmp(run->f[mine].at)) continue;
        if (--run->live == 0) _longjmp(run->out, 1);
        enter(next_of(mine));
    }
}

/* Lets the others go on. Whoever comes round without anybody having moved waits for a thread that has left. */
void wait() {
    if (++run->idle > 4 * run->n) broken("its threads wait for each other for ever");
    int mine = run->current;
    if (!_setjmp(run->f[mine].at)) enter(next_of(mine));
}

void run_block() {
    runner *r = run;
    r->live = r->n;
    r->here = r->idle = 0;
    for (int i = 0; i < r->n; i++) r->f[i].done = false;
    for (meeting &m : r->warp) m.here = 0;
    if (!_setjmp(r->out)) enter(0);
}

} // namespace

void emu_block_meet() {
    unsigned mine = run->times;
    if (++run->here == run->n) {
        run->here = 0;
        run->times++;
        run->idle = 0;
        return;
    }
    while (run->times == mine) wait();
}

void emu_warp_meet(void (*act)(void *const *lane), void *what) {
    meeting *m = &run->warp[run->current / LANES];
    unsigned mine = m->times;
    if (m->here && m->act != act) broken("lanes of one warp do different things");
    m->act = act;
    m->lane[run->current % LANES] = what;
    if (++m->here == LANES) {
        if (act) act(m->lane);
        m->here = 0;
        m->times++;
        run->idle = 0;
        return;
    }
    while (m->times == mine) wait();
}

static void run_grid(dim3 grid, dim3 block, const std::function<void()> &kernel) {
    static thread_local runner *mine;
    if (!mine) {
        static thread_local struct holder {
            runner *r = new runner();
            ~holder() { delete r; }
        } h;
        mine = h.r;
    }
    run = mine;
    run->kernel = &kernel;
    run->n = (int)(block.x * block.y * block.z);
    if (run->n > MOST || run->n % LANES || block.y != 1)
        broken("a block must have whole warps, one dimension, 1024 threads at most");
    if (!grid.x || !grid.y || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z != 1)
        broken("a grid has 1 to 2^31 - 1 by 1 to 65535 blocks here");
    for (int i = 0; i < run->n; i++)
        if (!run->f[i].stack)
            run->f[i].stack = (char *)mmap(nullptr, STACK, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    emu_at.block_size = block;
    emu_at.grid = grid;
    for (unsigned y = 0; y < grid.y; y++)
        for (unsigned x = 0; x < grid.x; x++) {
            emu_at.block = dim3(x, y, 0);
            run_block();
        }
}

void emu_launch(cudaStream_t s, dim3 grid, dim3 block, std::function<void()> kernel) {
    bool f16 = emu_f16;
    emu_enqueue(s, [=] {
        emu_f16 = f16;
        run_grid(grid, block, kernel);
    });
}

/* --- tensor cores */

uint16_t emu_half_of(float x) {
    uint32_t u = __float_as_uint(x), sign = u >> 16 & 0x8000u, size = u & 0x7fffffffu;
    if (!emu_f16)
        return size > 0x7f800000u ? (uint16_t)(u >> 16 | 0x40u)
                                  : (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
    if (size > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (size >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (size < 0x38800000u) { /* below 2^-14: a multiple of 2^-24 */
        float f = __uint_as_float(size) * 0x1p24f;
        return (uint16_t)(sign | (uint32_t)rintf(f));
    }
    return (uint16_t)(sign | ((size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13));
}

float emu_half_value(uint16_t h) {
    if (!emu_f16) return __uint_as_float((uint32_t)h << 16);
    uint32_t e = h >> 10 & 31u, m = h & 1023u;
    float v = e == 31 ? (m ? NAN : INFINITY)
              : e     ? ldexpf((float)(1024 + m), (int)e - 25)
                      : ldexpf((float)m, -24);
    return h & 0x8000u ? -v : v;
}

namespace {
struct mma {
    float *d;
    const uint32_t *a, *b;
};
float half_at(const uint32_t *reg, int i) {
    return emu_half_value((uint16_t)(reg[i / 2] >> 16 * (i % 2)));
}

/* PTX, "Matrix fragments for mma.m16n8k16": with g = lane / 4, t = lane % 4,
 *   a[i] row: g for i of 0, 1, 4, 5, else g + 8;  column: 2 t + (i & 1), + 8 for i >= 4
 *   b[i] row: 2 t + (i & 1), + 8 for i >= 2;      column: g
 *   d[i] row: g for i < 2, else g + 8;            column: 2 t + (i & 1) */
void do_mma(void *const *lane) {
    float a[16][16], b[16][8];
    for (int l = 0; l < LANES; l++) {
        const mma *m = (const mma *)lane[l];
        int g = l / 4, t = l % 4;
        for (int i = 0; i < 8; i++)
            a[g + (i & 2 ? 8 : 0)][2 * t + (i & 1) + (i >= 4 ? 8 : 0)] = half_at(m->a, i);
        for (int i = 0; i < 4; i++) b[2 * t + (i & 1) + (i >= 2 ? 8 : 0)][g] = half_at(m->b, i);
    }
    for (int l = 0; l < LANES; l++) {
        const mma *m = (const mma *)lane[l];
        for (int i = 0; i < 4; i++) {
            int row = l / 4 + (i < 2 ? 0 : 8), col = 2 * (l % 4) + (i & 1);
            float sum = 0;
            for (int k = 0; k < 16; k++) sum += a[row][k] * b[k][col];
            m->d[i] += sum;
        }
    }
}
} // namespace

void emu_mma(float *d, const uint32_t *a, const uint32_t *b) {
    mma m = {d, a, b};
    emu_warp_meet(do_mma, &m);
}

namespace {
struct load {
    uint32_t *r;
    const uint16_t *row;
};
/* Lane l names row l % 8 of matrix l / 8; its register i gets of matrix i
 *   plain       row l / 4,  columns 2 (l % 4), + 1
 *   transposed  column l / 4, rows 2 (l % 4), + 1
 * Every address is read before a register is written. */
template <bool TRANS> void do_load(void *const *lane) {
    uint16_t m[4][8][8];
    for (int l = 0; l < LANES; l++) memcpy(m[l / 8][l % 8], ((const load *)lane[l])->row, sizeof m[0][0]);
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 4; i++) {
            int a = l / 4, b = 2 * (l % 4);
            uint16_t lo = TRANS ? m[i][b][a] : m[i][a][b], hi = TRANS ? m[i][b + 1][a] : m[i][a][b + 1];
            ((const load *)lane[l])->r[i] = lo | (uint32_t)hi << 16;
        }
}
void check_aligned(const void *p) {
    if ((uintptr_t)p % 16) broken("16 bytes at an address that is no multiple of that");
}
template <bool TRANS> void load_matrices(uint32_t *r, const void *row) {
    check_aligned(row);
    load mine = {r, (const uint16_t *)row};
    emu_warp_meet(do_load<TRANS>, &mine);
}
} // namespace

void emu_ldmatrix(uint32_t *r, const void *row) {
    load_matrices<false>(r, row);
}
void emu_ldmatrix_trans(uint32_t *r, const void *row) {
    load_matrices<true>(r, row);
}
void emu_copy16(void *to, const void *from, bool there) {
    check_aligned(to);
    check_aligned(from);
    if (there)
        memcpy(to, from, 16);
    else
        memset(to, 0, 16);
}
