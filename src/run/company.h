/* Company: threads that work while something is measured, as the other stages of a run do beside the one that is looked at.
 * Caches, memory and clock of a machine are shared, and what a core does alone it does slower beside others. */
#ifndef RB_RUN_COMPANY_H
#define RB_RUN_COMPANY_H

#include <stdbool.h>
#include "core/err.h"

typedef struct rb_company rb_company;
/* A short piece of one member's work; called again and again. */
typedef resbm_status (*rb_company_work)(void *member, rb_err *err);

/* members (n): what each thread calls work with; borrowed until close. Nobody works yet. No thread takes a signal. n = 0: a
 * company that does nothing. */
resbm_status rb_company_open(rb_company_work work, void **members, int n, rb_company **out, rb_err *err);
/* Lets all work, or returns when the pieces under way are done and all rest. A member whose work fails rests from then on. */
void rb_company_let(rb_company *c, bool work);
/* Ends the threads and frees. The first fault of any member's work. c NULL: RESBM_OK. */
resbm_status rb_company_close(rb_company *c, rb_err *err);

#endif
