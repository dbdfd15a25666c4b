/* libsentencepiece behind C functions. No exception leaves them. */
#ifndef RB_DATA_SENTENCEPIECE_SHIM_H
#define RB_DATA_SENTENCEPIECE_SHIM_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rb_spm rb_spm;
typedef enum rb_spm_piece { RB_SPM_TEXT, RB_SPM_BYTE, RB_SPM_SILENT } rb_spm_piece;

/* From the bytes of a .model file. NULL on failure, with the reason in text. */
rb_spm *rb_spm_open(const char *model, size_t n, char *text, size_t text_size);
void rb_spm_close(rb_spm *m);
int rb_spm_vocab(const rb_spm *m);
int rb_spm_bos(const rb_spm *m); /* -1: none */
int rb_spm_eos(const rb_spm *m);
/* Calls add(ctx, id) for each id, in order; stops and returns non-zero when add does, or on a fault of its
 * own (-1). */
int rb_spm_encode(const rb_spm *m, const char *text, size_t n, int (*add)(void *ctx, int id), void *ctx);
/* What id stands for: a text (in *piece, *n, the library's, with U+2581 for blanks), a byte ("<0x41>"), or
 * nothing. */
rb_spm_piece rb_spm_piece_of(const rb_spm *m, int id, const char **piece, size_t *n);

#ifdef __cplusplus
}
#endif
#endif
