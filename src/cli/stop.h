/* SIGINT and SIGTERM as requests to stop. */
#ifndef RB_CLI_STOP_H
#define RB_CLI_STOP_H

#include <stdatomic.h>

/* Catches both from now on; the count goes up by one each time: 1 asks for a snapshot and an end, 2 for an end at once.
 * The third signal ends the process by itself. */
const atomic_int *rb_cli_stop(void);
/* Gives both their default meaning back. */
void rb_cli_stop_default(void);

/* The same without a word, for a process that nobody looks at. */
const atomic_int *rb_cli_stop_quietly(void);

#endif
