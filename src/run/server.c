#include "run/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "core/clock.h"

static void permissions(const rb_server_user *u, const char *run, rb_buf *out) {
    if (u->role == RB_ROLE_PARTICIPANT)
        rb_buf_printf(out,
                      ", permissions: {publish: {allow: [\"%s.to.*.*.%s\", \"%s.ask.*.%s\"]}, "
                      "subscribe: {allow: [\"%s.to.%s.*.*\", \"%s.inbox.%s.>\"]}}",
                      run, u->name, run, u->name, run, u->name, run, u->name);
    if (u->role == RB_ROLE_PROBE)
        rb_buf_puts(out, ", permissions: {publish: {deny: [\">\"]}, subscribe: {deny: [\">\"]}}");
    if (u->role == RB_ROLE_INVITATION)
        rb_buf_printf(
            out,
            ", permissions: {publish: {allow: [\"%s.ask.enrol\"]}, subscribe: {allow: [\"%s.inbox.%s.>\"]}}",
            run, run, u->name);
}

static bool is_foreign(const rb_server_config *c) {
    return c->load && *c->load;
}

static void print_own(const rb_server_config *c, rb_buf *out) {
    rb_buf_printf(
        out,
        "server_name: \"resbm-%s\"\nhost: \"%s\"\nport: %d\n"
        "max_payload: 1048576\nmax_control_line: 4096\nmax_connections: 4096\nmax_subscriptions: 64\n"
        "ping_interval: \"2s\"\nping_max: 3\nwrite_deadline: \"10s\"\n"
        "log_file: \"%s/server.log\"\nlogfile_size_limit: 16777216\npid_file: \"%s/server.pid\"\n",
        c->run, c->host, c->port, c->dir, c->dir);
    if (c->tls)
        rb_buf_printf(out, "tls {cert_file: \"%s/server.pem\", key_file: \"%s/server.key\", timeout: 5}\n",
                      c->dir, c->dir);
    if (c->store) rb_buf_printf(out, "jetstream {store_dir: \"%s/store\", max_memory_store: 0}\n", c->dir);
}

static void print_config(const rb_server_config *c, rb_buf *out) {
    rb_buf_puts(out, "# Written by resbm; changed when participants come and go.\n");
    if (!is_foreign(c)) print_own(c, out);
    rb_buf_puts(out, "authorization {\n  timeout: 5\n  users: [\n");
    for (int i = 0; i < c->user_count; i++) {
        rb_buf_printf(out, "    {nkey: \"%s\"", c->users[i].public_key);
        permissions(&c->users[i], c->run, out);
        rb_buf_printf(out, "} # %s\n", c->users[i].name);
    }
    rb_buf_puts(out, "  ]\n}\n");
}

resbm_status rb_server_write(const rb_server_config *c, rb_err *err) {
    char path[PATH_MAX];
    rb_buf text = {0};
    if (strpbrk(c->dir, "\"\n\\") || strpbrk(c->host, "\"\n\\"))
        return rb_fail(err, RESBM_E_ARG,
                       "the folder %s has a quote or a backslash in its name, which nats-server's "
                       "configuration cannot hold",
                       c->dir);
    print_config(c, &text);
    snprintf(path, sizeof path, "%s/server.conf", c->dir);
    resbm_status st = rb_buf_status(&text, err);
    if (!st) st = rb_write_file_atomic(path, text.data, text.len, err);
    rb_buf_free(&text);
    return st;
}

static pid_t server_pid(const char *dir) {
    char path[PATH_MAX];
    rb_buf text = {0};
    rb_err ignored;
    snprintf(path, sizeof path, "%s/server.pid", dir);
    long pid = rb_read_file(path, 64, &text, &ignored) ? 0 : strtol(text.data, NULL, 10);
    rb_buf_free(&text);
    return pid > 1 ? (pid_t)pid : 0;
}

/* A process number may be another program's by now: that of a server started on our configuration is in its command line. */
static bool is_our_server(pid_t pid, const char *dir) {
    char path[PATH_MAX], conf[PATH_MAX], line[4 * PATH_MAX];
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    int n = snprintf(conf, sizeof conf, "%s/server.conf", dir);
    FILE *f = fopen(path, "re");
    size_t have = f ? fread(line, 1, sizeof line - 1, f) : 0;
    if (f) fclose(f);
    line[have] = 0;
    for (const char *at = line; at < line + have; at += strlen(at) + 1)
        if (strlen(at) == (size_t)n && !strcmp(at, conf)) return true;
    return false;
}

static resbm_status run_load(const rb_server_config *c, rb_err *err) {
    char conf[PATH_MAX], log[PATH_MAX], how[96];
    char *const argv[] = {"/bin/sh", "-c", (char *)c->load, NULL};
    rb_child child;
    snprintf(conf, sizeof conf, "%s/server.conf", c->dir);
    snprintf(log, sizeof log, "%s/load.log", c->dir);
    if (setenv("RESBM_SERVER_CONF", conf, 1)) return rb_fail_errno(err, errno, "setenv");
    RB_TRY(rb_spawn_logged(argv, log, STDERR_FILENO, &child, err));
    for (int64_t until = rb_now_ns() + 60 * RB_SEC; !child.ended && rb_now_ns() < until;
         rb_sleep_ns(10 * RB_MS))
        rb_children_poll(&child, 1);
    if (!child.ended) {
        rb_children_end(&child, 1, rb_now_ns());
        kill(-child.pid, SIGKILL); /* what it has started is of its group */
        return rb_fail(err, RESBM_E_PEER, "--load \"%s\" has not ended within a minute", c->load);
    }
    if (WIFEXITED(child.status) && !WEXITSTATUS(child.status)) return RESBM_OK;
    rb_child_describe(&child, how, sizeof how);
    return rb_fail(err, RESBM_E_PEER,
                   "--load \"%s\" %s: the server does not know who may join (its words: %s)", c->load, how,
                   log);
}

resbm_status rb_server_reload(const rb_server_config *c, rb_err *err) {
    const char *dir = c->dir;
    if (is_foreign(c)) return run_load(c, err);
    pid_t pid = server_pid(dir);
    if (!pid || !is_our_server(pid, dir))
        return rb_fail(
            err, RESBM_E_STATE,
            "%s/server.pid names no running server of this run that could read its configuration again", dir);
    return kill(pid, SIGHUP)
               ? rb_fail_errno(err, errno, "cannot have the server (process %d) read its configuration again",
                               (int)pid)
               : RESBM_OK;
}

/* nats-server in PATH or where Debian puts it. */
static bool find_server(char out[PATH_MAX]) {
    const char *places = getenv("PATH");
    char *all = NULL, *save = NULL;
    bool found = false;
    if (asprintf(&all, "%s:/usr/sbin:/usr/local/sbin", places ? places : "/usr/bin") < 0) return false;
    for (char *p = strtok_r(all, ":", &save); p && !found; p = strtok_r(NULL, ":", &save)) {
        snprintf(out, PATH_MAX, "%s/nats-server", p);
        found = access(out, X_OK) == 0;
    }
    free(all);
    return found;
}

resbm_status rb_server_start(const char *program, const char *dir, bool bound, rb_child *out, rb_err *err) {
    char server[PATH_MAX], config[PATH_MAX], log[PATH_MAX];
    if (!find_server(server))
        return rb_fail(
            err, RESBM_E_CONFIG,
            "there is no nats-server on this machine: apt-get install nats-server (Debian, Ubuntu)");
    snprintf(config, sizeof config, "%s/server.conf", dir);
    snprintf(log, sizeof log, "%s/server.out", dir);
    char *free_argv[] = {server, "-c", config, NULL},
         *bound_argv[] = {(char *)program, "guard", server, "-c", config, NULL};
    int lock = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (lock < 0) return rb_fail_errno(err, errno, "/dev/null");
    resbm_status st = rb_spawn_logged(bound ? bound_argv : free_argv, log, lock, out, err);
    close(lock);
    return st;
}

resbm_status rb_free_port(const char *host, int *port, rb_err *err) {
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) a.sin_addr.s_addr = htonl(INADDR_ANY);
    bool ok =
        fd >= 0 && !bind(fd, (struct sockaddr *)&a, sizeof a) && !getsockname(fd, (struct sockaddr *)&a, &n);
    int why = errno;
    if (fd >= 0) close(fd);
    *port = ntohs(a.sin_port);
    return ok ? RESBM_OK : rb_fail_errno(err, why, "cannot find a free port of %s", host);
}

int64_t rb_server_log_bytes(const char *dir) {
    char path[PATH_MAX];
    struct stat s;
    snprintf(path, sizeof path, "%s/server.log", dir);
    return stat(path, &s) ? 0 : (int64_t)s.st_size;
}

bool rb_server_refuses(const char *dir, int64_t since_bytes, char *out, size_t size) {
    static const char words[] = "Failed to reload server configuration";
    char path[PATH_MAX], line[1024];
    bool found = false;
    snprintf(path, sizeof path, "%s/server.log", dir);
    FILE *f = fopen(path, "re");
    if (!f) return false;
    if (since_bytes > rb_server_log_bytes(dir))
        since_bytes = 0; /* a full one was put aside, and a new one begun */
    fseek(f, (long)since_bytes, SEEK_SET);
    while (!found && fgets(line, sizeof line, f)) {
        const char *at = strstr(line, words);
        found = at != NULL;
        if (found) snprintf(out, size, "%.*s", (int)strcspn(at, "\n"), at);
    }
    fclose(f);
    return found;
}

void rb_server_last_words(const char *dir, char *out, size_t size) {
    char path[PATH_MAX];
    snprintf(out, size, "no log in %s", dir);
    for (int i = 0; i < 2; i++) {
        rb_buf text = {0};
        rb_err ignored;
        snprintf(path, sizeof path, "%s/%s", dir, i ? "server.out" : "server.log");
        if (!rb_read_file(path, 32 << 20, &text, &ignored) && text.len > 1) {
            text.data[text.len - 1] = 0;
            const char *line = strrchr(text.data, '\n');
            snprintf(out, size, "%s", line ? line + 1 : text.data);
        }
        rb_buf_free(&text);
    }
}
