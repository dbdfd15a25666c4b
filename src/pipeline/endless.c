/* 1F1B without an end, for generators of schedules that update inside their lists. */
#include "pipeline/endless.h"

int rb_endless_total(const rb_schedule_args *a) {
    return a->microbatches * (a->steps > 1 ? a->steps : 1);
}

int rb_endless_updates(int m, int ahead, int each) {
    return m > ahead ? (m - ahead) / each : 0;
}

resbm_status rb_endless_stage(const rb_schedule_args *a, rb_schedule *out, int stage, int ahead, int each,
                              int (*version)(const rb_schedule_args *a, int stage, int m), rb_err *err) {
    rb_action_list *l = &out->stage[stage];
    int count = rb_endless_total(a);
    for (int m = -ahead; m < count; m++) {
        int next = m + ahead, from = l->count;
        if (next < count) RB_TRY(rb_push_all(out, stage, RB_ACT_FORWARD, next, err));
        for (int i = from; i < l->count; i++)
            l->items[i].behind = rb_endless_updates(next, ahead, each) - version(a, stage, next);
        if (m >= 0) RB_TRY(rb_push_all(out, stage, RB_ACT_BACKWARD, m, err));
        if (m >= 0 && (m + 1) % each == 0) RB_TRY(rb_push_all(out, stage, RB_ACT_UPDATE, m, err));
    }
    return RESBM_OK;
}
