/* An invitation: one line of text with which a machine can ask to join a run: where the server is, its certificate, and a key
 * that may do nothing but ask. "resbm1." and base64url of JSON {"url", "run", "seed", "certificate"}. */
#ifndef RB_RUN_INVITATION_H
#define RB_RUN_INVITATION_H

#include "core/buf.h"
#include "run/access.h"

enum { RB_INVITATION_LIMIT = 16384 };

resbm_status rb_invitation_print(const rb_access *a, rb_buf *out, rb_err *err);
/* text: the line itself, or the path of a file that holds it. */
resbm_status rb_invitation_read(const char *text, rb_access *out, rb_err *err);

#endif
