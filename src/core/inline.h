/* Functions that the CUDA part compiles for the GPU as well: one source, the same bits. */
#ifndef RB_CORE_INLINE_H
#define RB_CORE_INLINE_H

#ifdef __CUDACC__
#define RB_ANYWHERE static inline __host__ __device__
#else
#define RB_ANYWHERE static inline
#endif

#endif
