/* How much memory this process and those it starts may take. */
#ifndef RB_RUN_MEMORY_H
#define RB_RUN_MEMORY_H

/* What the kernel holds for available (caches that it would give up are), and no more than what the cgroups of this process leave
 * of their limits (version 1 or 2; files they have in caches count as free too). Bytes; 0: nothing is known. */
double rb_memory_available(void);
/* The same of a machine whose /proc and /sys lie below `root`. */
double rb_memory_available_of(const char *root);

#endif
