/* A nats-server of a run: its configuration (who may do what), its process, and its reload when that changes. A foreign one runs
 * already, alone or in a cluster: its configuration includes dir/server.conf, which then holds the run's users alone, and a
 * command of its operator's makes it (all of them) read that again. */
#ifndef RB_RUN_SERVER_H
#define RB_RUN_SERVER_H

#include <stdbool.h>
#include "core/buf.h"
#include "link/carrier.h"
#include "run/spawn.h"

/* What a key may do. A participant: send packets in its own name to anyone of the run, receive its own, ask in its own name.
 * An invitation: ask to be enrolled. The coordinator: everything. */
typedef enum rb_server_role {
    RB_ROLE_COORDINATOR,
    RB_ROLE_PARTICIPANT,
    RB_ROLE_INVITATION,
    RB_ROLE_PROBE /* nothing but to connect */
} rb_server_role;

typedef struct rb_server_user {
    char name[RB_CARRIER_NAME], public_key[RB_NKEY_TEXT];
    rb_server_role role;
} rb_server_user;

typedef struct rb_server_config {
    const char *dir;  /* of configuration, log, store, process number; exists */
    const char *host; /* to listen on */
    int port;
    const char *run;
    bool tls;         /* dir/server.pem and dir/server.key are there */
    bool store;       /* JetStream in dir/store */
    const char *load; /* command that has a foreign server read dir/server.conf; NULL, "": it is our own */
    const rb_server_user *users;
    int user_count;
} rb_server_config;

/* Writes dir/server.conf, mode 0600. */
resbm_status rb_server_write(const rb_server_config *c, rb_err *err);
/* Has the running server read it again, and does not wait until it has: keys that are gone are cut off then. Of a foreign one: runs its command (sh -c, with
 * RESBM_SERVER_CONF in its environment) and waits up to a minute; RESBM_E_PEER names it when it fails or does not end. */
resbm_status rb_server_reload(const rb_server_config *c, rb_err *err);
/* Starts nats-server on dir/server.conf. `bound`: it ends with this process, however that ends. RESBM_E_CONFIG when there is no
 * nats-server, with how to get it. Returns at once; whoever connects tries until it answers. */
resbm_status rb_server_start(const char *program, const char *dir, bool bound, rb_child *out, rb_err *err);
/* A TCP port of `host` that nobody has now. */
resbm_status rb_free_port(const char *host, int *port, rb_err *err);
/* Bytes of dir/server.log; and what the server has said against a configuration since there were so many. False: nothing. */
int64_t rb_server_log_bytes(const char *dir);
bool rb_server_refuses(const char *dir, int64_t since_bytes, char *out, size_t size);
/* How a server that ended explains itself: the last line of dir/server.log. */
void rb_server_last_words(const char *dir, char *out, size_t size);

#endif
