/* Threads and their waits as this program has them: on the clock of its deadlines, and without signals. */
#ifndef RB_CORE_THREAD_H
#define RB_CORE_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* A condition whose waits end at points of rb_now_ns's clock. */
void rb_cond_init(pthread_cond_t *c);
/* One wait, with the lock held: false once `until_ns` has passed. As every such wait it may end without a reason. */
bool rb_cond_wait_until(pthread_cond_t *c, pthread_mutex_t *lock, int64_t until_ns);
/* Starts a thread that takes no signals: they belong to the program's own threads. name (15 characters; NULL: none) is what a
 * debugger shows. Returns 0, or what pthread_create does. */
int rb_thread_start(pthread_t *out, const char *name, void *(*run)(void *), void *arg);

#endif
