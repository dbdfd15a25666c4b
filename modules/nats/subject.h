/* What a subject that somebody else has chosen may be. */
#ifndef RB_NATS_SUBJECT_H
#define RB_NATS_SUBJECT_H

#include <stdbool.h>

enum { RB_NATS_SUBJECT = 320 };

/* May an answer for `asker` be published to `reply`? Only below its own inbox prefix, RUN.inbox.ASKER. The server does not
 * look at replies: it lets each ask for an answer to go anywhere, and who answers has other permissions than who asks. */
bool rb_nats_may_answer(const char *run, const char *asker, const char *reply);

#endif
