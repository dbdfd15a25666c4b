/* Which device each stage computes on: pipeline.device is one name for all stages, or one per stage with commas between,
 * "cuda:0, cuda:1, cpu". */
#ifndef RB_RUN_DEVICES_H
#define RB_RUN_DEVICES_H

#include "run/config.h"

enum { RB_DEVICE_NAME = 64 };

/* The name for rb_device_open, of a configuration that passed rb_devices_check. */
const char *rb_device_of_stage(const rb_config *c, int stage, char out[RB_DEVICE_NAME]);
/* RESBM_E_CONFIG names a device that does not exist, or says how many there are for how many stages; `at`: the place in
 * the configuration. */
resbm_status rb_devices_check(const rb_config *c, const char *at, rb_err *err);
/* pipeline.logits, or what auto comes to on the stage's device. */
int64_t rb_devices_logits(const rb_config *c, int stage);
/* Is a stage's memory the host's, for all stages? */
bool rb_devices_all_host(const rb_config *c);

#endif
