/* A rank of an MPI job: `mpirun -n 4 resbm train RUN.yaml engine=mpi` starts the same command four times. Rank n is stage
 * n. Rank 0 starts one more process, the coordinator, in a session of its own: mpirun kills every rank as soon as one has
 * died, and somebody has to be left who says which. It listens for the control channel over TCP (a dead process's
 * connections are closed by its kernel at once, while MPI tells nobody); its address and the run's secret go to the ranks
 * over MPI, as do the messages between stages. */
#ifndef RB_RUN_RANK_H
#define RB_RUN_RANK_H

#include "run/config.h"

typedef struct rb_rank_options {
    const rb_config *cfg; /* validated */
    const char *program;  /* the resbm program */
    char *const *
        argv; /* what makes it the coordinator of the same run, NULL at the end; "{announce}" becomes the words
                                that rb_rank_announce reads */
} rb_rank_options;

/* Was this process started by a launcher of MPI? Its rank, or -1. */
int rb_rank_of_process(void);
/* For another rank whose fault the first one has as well, and says: blocks for some seconds, in which the launcher usually ends
 * this process. */
void rb_rank_let_the_first_speak(void);
/* Works as the rank it is until the run is over; blocks that long. *told: somebody else prints the fault. *exit_status: of
 * the whole run on rank 0, of this stage elsewhere. */
resbm_status rb_rank_main(const rb_rank_options *o, bool *told, int *exit_status, rb_err *err);
/* On the coordinator's side: "FD" or "FD:everywhere". False when the text is neither. */
bool rb_rank_announce(const char *text, int *fd, bool *everywhere);

#endif
