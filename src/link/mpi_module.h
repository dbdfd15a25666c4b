/* What a loadable module per MPI offers. Open MPI and MPICH have different binary interfaces, so the program links to
 * neither: modules/mpi/mpi.c is compiled once with each one's compiler wrapper that CMake finds, into
 * resbm-mpi-openmpi.so and resbm-mpi-mpich.so, and link/mpi.h loads the one that belongs to the launcher.
 *
 * Everything moves bytes between ranks of the whole job; nothing of MPI's types crosses this table. All calls come from
 * one thread, the one that called init (MPI_THREAD_FUNNELED is enough). None aborts the process: codes other than 0 are
 * MPI's own, for `text`. No call but init and finish blocks. */
#ifndef RB_LINK_MPI_MODULE_H
#define RB_LINK_MPI_MODULE_H

#include <stdint.h>

enum { RB_MPI_MODULE_ABI = 1 };

typedef struct rb_mpi_module {
    uint32_t abi;
    const char *name; /* "openmpi" or "mpich" */
    int (*init)(int *rank, int *size);
    /* The buffer is MPI's until the request is done. */
    int (*send)(const void *bytes, int n, int to, int tag, uint64_t *request);
    int (*receive)(void *bytes, int room, int from, int tag, uint64_t *request);
    /* *bytes: of a receive that is done. */
    int (*test)(uint64_t *request, int *done, int *bytes);
    int (*finish)(void); /* collective, with nothing under way */
    void (*text)(int code, char *out, int size);
    void (*version)(char *out, int size); /* the library's own words, may be called before init */
} rb_mpi_module;

/* The symbol that a module exports. */
#define RB_MPI_MODULE_SYMBOL "resbm_mpi_module"
typedef const rb_mpi_module *(*rb_mpi_module_fn)(void);

#endif
