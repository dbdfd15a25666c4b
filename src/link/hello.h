/* The first bytes of a connection. The dialing side sends a hello, the accepting side checks it and answers
 * with its own, whose verdict says whether it takes the connection; a refusal names the values that did not
 * match.
 *
 * Hello, 48 bytes, little-endian:
 *    0  8  magic "RBHELLO" 0x0a
 *    8  2  protocol version
 *   10  2  verdict (0: welcome; in the dialing side's hello always 0)
 *   12  4  number of the sender (stage, or -1 the coordinator)
 *   16  4  number of whom the sender believes to talk to
 *   20  4  stages of the run
 *   24  8  token of the run (0 in a refusal: a stranger does not learn it)
 *   32  4  fingerprint of the token (so that both sides can name both)
 *   36  4  zero
 *   40  8  XXH3-64 of the 40 bytes before
 */
#ifndef RB_LINK_HELLO_H
#define RB_LINK_HELLO_H

#include <stdint.h>
#include "core/err.h"

enum { RB_HELLO_BYTES = 48, RB_PROTOCOL_VERSION = 1 };

typedef enum rb_verdict {
    RB_WELCOME,
    RB_REFUSED_VERSION,
    RB_REFUSED_TOKEN,
    RB_REFUSED_NUMBER,
    RB_REFUSED_STAGES,
    RB_REFUSED_BUSY,
    RB_REFUSED_NAME
} rb_verdict;

typedef struct rb_hello {
    uint16_t version, verdict;
    int32_t self, peer, stages;
    uint64_t token;
    uint32_t fingerprint;
} rb_hello;

uint32_t rb_token_fingerprint(uint64_t token);
void rb_hello_put(uint8_t out[RB_HELLO_BYTES], const rb_hello *h);
/* RESBM_E_FORMAT for another magic, RESBM_E_CORRUPT for a wrong checksum or a non-zero reserved field. */
resbm_status rb_hello_get(const uint8_t in[RB_HELLO_BYTES], rb_hello *h, rb_err *err);
/* The accepting side's verdict on `theirs`; err gets the sentence of a refusal. */
rb_verdict rb_hello_judge(const rb_hello *mine, const rb_hello *theirs, rb_err *err);
/* The dialing side's reading of the answer: RESBM_OK, or the refusal with both values named. */
resbm_status rb_hello_answer(const rb_hello *mine, const rb_hello *answer, rb_err *err);

/* "stage 2", "the coordinator"; returns buf. */
enum { RB_WHO_TEXT = 32 };
const char *rb_who(char buf[RB_WHO_TEXT], int number);
/* The same where numbers are those of replicas of stages: "stage 2", "stage 2 replica 1" (the second one). */
typedef struct rb_place {
    int stage, replica;
} rb_place;
const char *rb_who_at(char buf[RB_WHO_TEXT], int number, const rb_place *places);

#endif
