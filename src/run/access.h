/* Access: what a process needs to reach the run's server as one participant, as one line of JSON:
 *     {"url": "tls://host:4222", "run": "r3f2a", "name": "p-2b7c", "seed": "SU…", "certificate": "-----BEGIN …",
 *      "up_bits": 0, "uplink_bits": 21e6}
 * It holds a secret: it travels on standard input and in files of mode 0600, never on a command line or in a log. */
#ifndef RB_RUN_ACCESS_H
#define RB_RUN_ACCESS_H

#include "link/carrier.h"

#define RB_INVITED "invite" /* the name that the key of invitations goes by on the server */
#define RB_PROBE   "probe"  /* of one that only connects */

typedef struct rb_access {
    char url[280], run[64], name[RB_CARRIER_NAME], seed[RB_NKEY_TEXT];
    char certificate[4096];                         /* empty: no TLS */
    bool catch_all;                                 /* rb_carrier_options.catch_all; not printed */
    void (*malformed)(void *ctx, const char *from); /* rb_carrier_options.malformed; not printed */
    double up_bits;     /* that its owner lets a stage send per second; 0: no limit */
    double uplink_bits; /* that its uplink was measured to carry; 0: not measured */
} rb_access;

/* One line; the caller frees it (and wipes it). */
resbm_status rb_access_print(const rb_access *a, char **out, rb_err *err);
resbm_status rb_access_parse(const char *text, rb_access *out, rb_err *err);
/* Loads the module and connects, trying until the deadline. note: what happens to the connection, for people; or NULL. */
resbm_status rb_access_connect(const rb_access *a, int64_t deadline_ns,
                               void (*note)(void *ctx, const char *text), void *ctx, rb_carrier **out,
                               rb_err *err);

#endif
