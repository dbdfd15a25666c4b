#include "data/sentencepiece_shim.h"

#include <sentencepiece_processor.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

struct rb_spm {
    sentencepiece::SentencePieceProcessor p;
};

rb_spm *rb_spm_open(const char *model, size_t n, char *text, size_t text_size) {
    rb_spm *m = nullptr;
    try {
        m = new rb_spm;
        auto status = m->p.LoadFromSerializedProto(absl::string_view(model, n));
        if (status.ok()) return m;
        std::snprintf(text, text_size, "%s", status.ToString().c_str());
    } catch (const std::exception &e) {
        std::snprintf(text, text_size, "%s", e.what());
    }
    delete m;
    return nullptr;
}

void rb_spm_close(rb_spm *m) {
    delete m;
}
int rb_spm_vocab(const rb_spm *m) {
    return m->p.GetPieceSize();
}
int rb_spm_bos(const rb_spm *m) {
    return m->p.bos_id();
}
int rb_spm_eos(const rb_spm *m) {
    return m->p.eos_id();
}

int rb_spm_encode(const rb_spm *m, const char *text, size_t n, int (*add)(void *ctx, int id), void *ctx) {
    try {
        std::vector<int> ids;
        if (!m->p.Encode(absl::string_view(text, n), &ids).ok()) return -1;
        for (int id : ids)
            if (int stop = add(ctx, id)) return stop;
        return 0;
    } catch (const std::exception &) {
        return -1;
    }
}

rb_spm_piece rb_spm_piece_of(const rb_spm *m, int id, const char **piece, size_t *n) {
    const std::string &s = m->p.IdToPiece(id);
    *piece = s.data();
    *n = s.size();
    if (m->p.IsByte(id)) return RB_SPM_BYTE;
    return m->p.IsControl(id) || m->p.IsUnknown(id) || m->p.IsUnused(id) ? RB_SPM_SILENT : RB_SPM_TEXT;
}
