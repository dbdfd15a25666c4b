/* Streams between the ranks of an MPI job. One progress thread owns MPI: it loads the module, calls every function of it,
 * and moves bytes between MPI and one end of a socket pair per stream; the other end is an ordinary stream socket, which
 * rb_link_attach makes a link's connection. So everything that link.h promises (credit, shape, addresses, deadlines)
 * holds over MPI as it does over TCP, and sending overlaps computation.
 *
 * Bytes of one stream arrive in order: MPI does not let messages of one sender and tag overtake each other. A stream ends
 * with a message of no bytes. The thread never blocks inside MPI: it tests what is under way and, when nothing moves,
 * waits for the sockets with a back-off from 20 us to 1 ms.
 *
 *     link ... socket pair -> [two buffers] -> MPI_Isend  ~~~  MPI_Irecv -> [two buffers] -> socket pair ... link
 */
#ifndef RB_LINK_MPI_H
#define RB_LINK_MPI_H

#include "core/err.h"

typedef struct rb_mpi rb_mpi;

/* Kinds of module, for messages and `resbm doctor`. */
extern const char *const rb_mpi_kinds[]; /* "openmpi", "mpich", NULL */
/* Which of them the process was started by (NULL: by no launcher of MPI that is known), and as which rank (-1 likewise).
 * Where the launcher fits several (srun), the kind is "". */
const char *rb_mpi_launched(int *rank);
/* Path of the kind's module, beside the program or installed with it. RESBM_E_CONFIG names the places looked at and what to
 * install. */
resbm_status rb_mpi_find(const char *kind, const char *program, char out[4096], rb_err *err);
/* What the module's library calls itself; loads it. */
resbm_status rb_mpi_describe(const char *kind, const char *program, char out[128], rb_err *err);

/* Joins the job (MPI_Init, in the progress thread), at most until the deadline. */
resbm_status rb_mpi_open(const char *kind, const char *program, int64_t deadline_ns, rb_mpi **out,
                         rb_err *err);
int rb_mpi_rank(const rb_mpi *m);
int rb_mpi_size(const rb_mpi *m);
/* A stream to another rank, as a non-blocking socket that belongs to the caller. Both sides name the same channel (0 to
 * RB_MPI_CHANNELS - 1); a channel may be used again once it has ended on both sides. Does not block. */
enum { RB_MPI_CHANNELS = 1024 };
resbm_status rb_mpi_stream(rb_mpi *m, int rank, int channel, int *fd, rb_err *err);
/* Both ends of a stream from this rank to itself, for tests: its bytes go through MPI. */
resbm_status rb_mpi_loop(rb_mpi *m, int channel, int fd[2], rb_err *err);
/* Waits until every stream has ended on both sides, then leaves the job (MPI_Finalize), at most until the deadline. After a
 * fault call it with deadline 0: the job is left without a word, as MPI_Finalize would wait for ranks that are gone. The
 * first fault of MPI is returned; m is freed in every case, but where MPI_Finalize still hangs its thread goes on. */
resbm_status rb_mpi_close(rb_mpi *m, int64_t deadline_ns, rb_err *err);

#endif
