/* Which MPI launched this process, and where its module is. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "link/mpi.h"
#include "link/mpi_load.h"

const char *const rb_mpi_kinds[] = {"openmpi", "mpich", NULL};

/* What launchers leave in the environment. Slurm's srun starts either kind. */
static const struct {
    const char *variable, *kind;
} marks[] = {{"OMPI_COMM_WORLD_RANK", "openmpi"},
             {"PMIX_RANK", "openmpi"},
             {"PMI_RANK", "mpich"},
             {"SLURM_PROCID", ""}};

const char *rb_mpi_launched(int *rank) {
    *rank = -1;
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++) {
        const char *value = getenv(marks[i].variable);
        if (!value || !*value) continue;
        *rank = atoi(value);
        bool slurm = getenv("SLURM_PROCID") && !getenv("OMPI_COMM_WORLD_RANK");
        return slurm ? "" : marks[i].kind;
    }
    return NULL;
}

resbm_status rb_mpi_find(const char *kind, const char *program, char out[4096], rb_err *err) {
    static const char *const below[] = {"", "../" RB_LIBDIR "/resbm/"};
    const char *slash = strrchr(program, '/');
    int n = slash ? (int)(slash - program) + 1 : 0;
    for (size_t i = 0; i < sizeof below / sizeof *below; i++) {
        snprintf(out, 4096, "%.*s%sresbm-mpi-%s.so", n, program, below[i], kind);
        if (!access(out, R_OK)) return RESBM_OK;
    }
    return rb_fail(err, RESBM_E_CONFIG,
                   "engine: mpi: there is no module for %s, resbm-mpi-%s.so, in %.*s or %.*s"
                   "%s: install lib%s-dev and "
                   "build again, or start resbm with the other MPI's mpirun",
                   !strcmp(kind, "openmpi") ? "Open MPI" : "MPICH", kind, n, program, n, program, below[1],
                   kind);
}

resbm_status rb_mpi_load(const char *kind, const char *program, void **handle, const rb_mpi_module **out,
                         rb_err *err) {
    char path[4096];
    RB_TRY(rb_mpi_find(kind, program, path, err));
    *handle = dlopen(path, RTLD_NOW | RTLD_GLOBAL); /* MPI's own components look for its symbols */
    if (!*handle) return rb_fail(err, RESBM_E_CONFIG, "engine: mpi: cannot load the module: %s", dlerror());
    void *symbol = dlsym(*handle, RB_MPI_MODULE_SYMBOL);
    rb_mpi_module_fn get = NULL;
    memcpy(&get, &symbol, sizeof get);
    *out = get ? get() : NULL;
    if (*out && (*out)->abi == RB_MPI_MODULE_ABI && !strcmp((*out)->name, kind)) return RESBM_OK;
    rb_fail(err, RESBM_E_CONFIG,
            "engine: mpi: %s is no module of this version of resbm: build both from the same source", path);
    dlclose(*handle);
    return RESBM_E_CONFIG;
}

resbm_status rb_mpi_describe(const char *kind, const char *program, char out[128], rb_err *err) {
    void *handle;
    const rb_mpi_module *m;
    RB_TRY(rb_mpi_load(kind, program, &handle, &m, err));
    m->version(out, 128);
    return RESBM_OK; /* stays loaded: MPI libraries do not take unloading well */
}
