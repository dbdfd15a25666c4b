/* Names of transport codecs in the configuration. */
#ifndef RB_MODEL_WIRE_H
#define RB_MODEL_WIRE_H

#include "device/ops.h"

/* bits: of one value, scales not counted. RESBM_E_CONFIG names key and name. */
resbm_status rb_wire_code(const char *key, const char *name, rb_code *code, int *bits, rb_err *err);

#endif
