#include <argp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>
#include "cli/cli.h"
#include "cli/stop.h"
#include "run/host.h"

typedef struct arguments {
    const char *file, *dir, *listen, *announce, *server, *authority, *load;
    const char **set;
    int sets;
} arguments;

static const struct argp_option options[] = {
    {"listen", 'l', "HOST[:PORT]", 0,
     "address the server listens on (default 0.0.0.0:4222; port 0: chosen by the system)", 0},
    {"announce", 'a', "HOST[:PORT]", 0,
     "name or address by which participants reach this machine, and the port where a router forwards another "
     "one",
     0},
    {"server", 's', "URL", 0,
     "use the NATS server at tls://HOST:PORT, which runs already, and start none; with --ca and --load", 0},
    {"ca", 'c', "FILE", 0, "certificate that the server's is checked by", 0},
    {"load", 'L', "COMMAND", 0,
     "has that server read DIR/host/server.conf again, whose path is in RESBM_SERVER_CONF", 0},
    {"out", 'o', "DIR", 0, "folder of the run (default runs/NAME of the configuration)", 0},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'o':
        a->dir = arg;
        break;
    case 'l':
        a->listen = arg;
        break;
    case 'a':
        a->announce = arg;
        break;
    case 's':
        a->server = arg;
        break;
    case 'c':
        a->authority = arg;
        break;
    case 'L':
        a->load = arg;
        break;
    case ARGP_KEY_ARG:
        if (strchr(arg, '=') && access(arg, F_OK))
            a->set[a->sets++] = arg;
        else if (a->file)
            argp_error(state, "two configurations: %s and %s", a->file, arg);
        else
            a->file = arg;
        break;
    case ARGP_KEY_END:
        if (!a->file) argp_error(state, "name a configuration (RUN.yaml)");
        if (!a->server && (a->authority || a->load)) argp_error(state, "--ca and --load belong to --server");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static resbm_status load(const arguments *a, rb_config *c, rb_err *err) {
    RB_TRY(rb_config_defaults(c, err));
    RB_TRY(rb_config_load_file(c, a->file, err));
    for (int i = 0; i < a->sets; i++) RB_TRY(rb_config_override(c, a->set[i], err));
    RB_TRY(rb_config_override(c, "engine=nats", err));
    RB_TRY(rb_config_override(c, "data.distribute=wire", err)); /* participants have no data set */
    return rb_config_validate(c, err);
}

int rb_cmd_host(int argc, char **argv) {
    const struct argp argp = {
        options,
        parse,
        "RUN.yaml [section.key=value ...]",
        "Hosts a run that other machines take part in (resbm join): starts a NATS server, prints an "
        "invitation, "
        "trains as soon as there are enough participants. The same command goes on where it was.",
        NULL,
        NULL,
        NULL};
    arguments a = {.set = calloc((size_t)argc, sizeof *a.set)};
    char dir[4096], program[4096];
    rb_err err = {0};
    rb_config *c = calloc(1, sizeof *c);
    if (!a.set || !c || argp_parse(&argp, argc, argv, 0, NULL, &a)) return 2;
    const char *name = strrchr(a.file, '/');
    snprintf(dir, sizeof dir, "runs/%s", name ? name + 1 : a.file);
    char *dot = strrchr(dir, '.');
    if (dot) *dot = 0;
    signal(SIGPIPE, SIG_IGN);
    resbm_status st = load(&a, c, &err);
    rb_host_options o = {.cfg = c,
                         .dir = a.dir ? a.dir : dir,
                         .program = rb_cli_program(program),
                         .listen = a.listen,
                         .announce = a.announce,
                         .server = a.server,
                         .authority = a.authority,
                         .load = a.load,
                         .asked = rb_cli_stop(),
                         .out = stdout};
    if (!st) st = rb_host_keep(&o, &err);
    free(c);
    free(a.set);
    return st ? rb_cli_fail(st, &err) : 0;
}

/* coordinate DIR [ID [BEFORE]]: the coordinator's process; 75: it may be started again. */
int rb_cmd_coordinate(int argc, char **argv) {
    rb_err err = {0};
    char program[4096];
    bool again;
    if (argc < 2 || argc > 4) return 2;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGPIPE, SIG_IGN);
    rb_coordinate_options o = {.dir = argv[1],
                               .program = rb_cli_program(program),
                               .build = rb_cli_build(),
                               .id = argc > 2 ? argv[2] : NULL,
                               .before = argc > 3 ? argv[3] : NULL,
                               .asked = rb_cli_stop(),
                               .out = stderr};
    resbm_status st = rb_host_coordinate(&o, &again, &err);
    if (!st) return 0;
    int status = rb_cli_fail(st, &err);
    return again && st != RESBM_E_CANCELLED ? 75 : status;
}
