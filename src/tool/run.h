#pragma once
/* Rows of option tables that the commands which make a VM share. */

#include "base/option.h"

const char *engine_choice(unsigned index);
const char *console_choice(unsigned index);
/* The field is a struct machine_config's console. */
int parse_console(const struct option_spec *spec, const char *value, void *target,
                  struct error *err);
