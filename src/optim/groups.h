/* Inside optim/: rules by number, and the checks that need no tensor table. */
#ifndef RB_OPTIM_GROUPS_H
#define RB_OPTIM_GROUPS_H

#include "optim/rule.h"

const rb_rule_table *rb_rule_find(rb_rule r); /* NULL for RB_RULE_NONE */
double rb_rule_lr(const rb_optim_config *c, const rb_optim_kind *kind, rb_rule r);
resbm_status rb_optim_check_config(const rb_optim_config *c, rb_err *err);

#endif
