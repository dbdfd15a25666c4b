/* The module itself: compiled with mpicc of one MPI, loaded by the program (link/mpi_module.h says how). */
#include <mpi.h>

#include <stdio.h>
#include <string.h>
#include "link/mpi_module.h"

_Static_assert(sizeof(MPI_Request) <= sizeof(uint64_t), "a request does not fit its word");

static MPI_Request get(const uint64_t *word) {
    MPI_Request r;
    memcpy(&r, word, sizeof r);
    return r;
}

static void put(uint64_t *word, MPI_Request r) {
    *word = 0;
    memcpy(word, &r, sizeof r);
}

static int init(int *rank, int *size) {
    int given, bad = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &given);
    if (!bad) bad = MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (!bad) bad = MPI_Comm_rank(MPI_COMM_WORLD, rank);
    return bad ? bad : MPI_Comm_size(MPI_COMM_WORLD, size);
}

static int send_bytes(const void *bytes, int n, int to, int tag, uint64_t *request) {
    MPI_Request r;
    int bad = MPI_Isend(bytes, n, MPI_BYTE, to, tag, MPI_COMM_WORLD, &r);
    if (!bad) put(request, r);
    return bad;
}

static int receive_bytes(void *bytes, int room, int from, int tag, uint64_t *request) {
    MPI_Request r;
    int bad = MPI_Irecv(bytes, room, MPI_BYTE, from, tag, MPI_COMM_WORLD, &r);
    if (!bad) put(request, r);
    return bad;
}

static int test_request(uint64_t *request, int *done, int *bytes) {
    MPI_Request r = get(request);
    MPI_Status s;
    int bad = MPI_Test(&r, done, &s);
    put(request, r);
    return bad || !*done ? bad : MPI_Get_count(&s, MPI_BYTE, bytes);
}

static int finish(void) {
    return MPI_Finalize();
}

static void text(int code, char *out, int size) {
    char t[MPI_MAX_ERROR_STRING];
    int n = 0;
    if (MPI_Error_string(code, t, &n)) n = 0;
    snprintf(out, (size_t)size, "%.*s", n, t);
}

static void version(char *out, int size) {
    char t[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int n = 0;
    MPI_Get_library_version(t, &n);
    snprintf(out, (size_t)size, "%.*s", (int)strcspn(t, ",\n"), t);
}

static const rb_mpi_module table = {.abi = RB_MPI_MODULE_ABI,
#ifdef OPEN_MPI
                                    .name = "openmpi",
#else
                                    .name = "mpich",
#endif
                                    .init = init,
                                    .send = send_bytes,
                                    .receive = receive_bytes,
                                    .test = test_request,
                                    .finish = finish,
                                    .text = text,
                                    .version = version};

__attribute__((visibility("default"))) const rb_mpi_module *resbm_mpi_module(void);
const rb_mpi_module *resbm_mpi_module(void) {
    return &table;
}
