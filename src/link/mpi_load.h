/* Loading a module; for mpi.c. */
#ifndef RB_LINK_MPI_LOAD_H
#define RB_LINK_MPI_LOAD_H

#include "core/err.h"
#include "link/mpi_module.h"

resbm_status rb_mpi_load(const char *kind, const char *program, void **handle, const rb_mpi_module **out,
                         rb_err *err);

#endif
