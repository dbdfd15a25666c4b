/* What moving messages takes of the cores that stages compute on: an endpoint's thread works beside its stage. */
#ifndef RB_RUN_MEASURE_LINK_H
#define RB_RUN_MEASURE_LINK_H

#include "run/config.h"

/* cpu: seconds of processor time that the threads of both ends take for one message of the configured boundary (the mean
 * of both directions) over the configured link on this machine, measured for so many seconds, or until something has
 * passed. */
resbm_status rb_measure_link(const rb_config *cfg, double seconds, double *cpu, rb_err *err);

#endif
