/* Sums of many rows, one row behind the other, as fast as memory delivers them: a block loads what one of its warps adds. */
#ifndef RB_DEVICE_CUDA_IN_ORDER_H
#define RB_DEVICE_CUDA_IN_ORDER_H

#include "device/cuda/wide.h"

/* A block adds 32 columns of 256 rows at a time; a thread loads four columns of each 32nd row. */
enum {
    RB_ORDER_THREADS = 256,
    RB_ORDER_COLUMNS = 32,
    RB_ORDER_QUADS = RB_ORDER_COLUMNS / 4,
    RB_ORDER_STEP = RB_ORDER_THREADS / RB_ORDER_QUADS,
    RB_ORDER_EACH = 8,
    RB_ORDER_ROWS = RB_ORDER_STEP * RB_ORDER_EACH
};

struct alignas(16) rb_order_room {
    float tile[RB_ORDER_ROWS][RB_ORDER_COLUMNS];
    int more;
};

/* Columns c to c + 3 of a row of d; what is not there is -0, which changes no sum. */
template <bool WIDE>
static __device__ __forceinline__ rb_wide<float, 4> rb_quad(const float *row, int64_t c, int64_t d) {
    rb_wide<float, 4> v;
    if (WIDE && row && c < d) return rb_take<4>(row + c);
    for (int j = 0; j < 4; j++) v.w[j] = !WIDE && row && c + j < d ? __float_as_uint(row[c + j]) : 0x80000000u;
    return v;
}

/* What a thread loads of one tile. */
struct rb_order_share {
    int64_t place[RB_ORDER_EACH];
    rb_wide<float, 4> held[RB_ORDER_EACH];
    int64_t c, d;
    int mine;
    template <class R> __device__ __forceinline__ void find(const R &rows, int64_t from) {
#pragma unroll
        for (int k = 0; k < RB_ORDER_EACH; k++) place[k] = rows.find(from + mine + k * RB_ORDER_STEP);
    }
    template <bool WIDE, class R> __device__ __forceinline__ void load(const R &rows) {
#pragma unroll
        for (int k = 0; k < RB_ORDER_EACH; k++)
            held[k] = rb_quad<WIDE>(place[k] < 0 ? nullptr : rows.at(place[k]), c, d);
    }
    __device__ __forceinline__ void put(float (*tile)[RB_ORDER_COLUMNS]) const {
        int quad = (int)threadIdx.x % RB_ORDER_QUADS;
#pragma unroll
        for (int k = 0; k < RB_ORDER_EACH; k++)
            rb_store_words<16>(&tile[mine + k * RB_ORDER_STEP][4 * quad], held[k].w);
    }
};

/* sum + rows 0, 1, 2 ... of column `first` + thread, in the first warp. rows.find(k): what row k is kept under, less than 0
 * behind the last; rows.at(that): its beginning. What rows hold is asked for a tile ahead, where they are two ahead. */
template <bool WIDE, class R>
static __device__ float rb_add_in_order(float sum, const R &rows, int64_t first, int64_t d, rb_order_room *room) {
    rb_order_share s;
    s.mine = (int)threadIdx.x / RB_ORDER_QUADS;
    s.c = first + 4 * ((int)threadIdx.x % RB_ORDER_QUADS), s.d = d;
    s.find(rows, 0);
    bool full = s.place[RB_ORDER_EACH - 1] >= 0, more;
    s.load<WIDE>(rows);
    s.find(rows, RB_ORDER_ROWS);
    for (int64_t next = 2 * RB_ORDER_ROWS;; next += RB_ORDER_ROWS) {
        __syncthreads(); /* the tile before has been added */
        s.put(room->tile);
        if (threadIdx.x == RB_ORDER_THREADS - 1) room->more = full; /* it had the last row */
        __syncthreads();
        more = room->more;
        if (more) {
            full = s.place[RB_ORDER_EACH - 1] >= 0;
            s.load<WIDE>(rows);
            s.find(rows, next);
        }
        if (threadIdx.x < RB_ORDER_COLUMNS) {
#pragma unroll 16
            for (int k = 0; k < RB_ORDER_ROWS; k++) sum += room->tile[k][threadIdx.x];
        }
        if (!more) return sum;
    }
}

#endif
