/* For tests: a carrier of which only the door is there, so that the test opens streams to it in any name. */
#ifndef RB_LINK_TESTING_DOOR_H
#define RB_LINK_TESTING_DOOR_H

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include "core/err.h"

static int door = -1;

static resbm_status listen_on(void *c, const char *service, int *out, rb_err *err) {
    int ends[2];
    (void)c;
    (void)service;
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK)) return rb_fail_errno(err, errno, "pipe");
    *out = ends[0];
    door = ends[1];
    return RESBM_OK;
}

static void unlisten(void *c, int fd) {
    (void)c;
    close(fd);
    close(door);
}

#endif
