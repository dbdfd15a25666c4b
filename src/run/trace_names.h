/* From the names in trace.json back to numbers; -1 for a name that is none (or NULL). */
#ifndef RB_RUN_TRACE_NAMES_H
#define RB_RUN_TRACE_NAMES_H

int rb_trace_find_track(const char *name);
int rb_trace_find_category(const char *name);

#endif
