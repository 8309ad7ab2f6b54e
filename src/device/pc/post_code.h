#pragma once
/*
 * The diagnostic ports of a PC: firmware writes there how far it has got. The last code
 * can be read back.
 */

#include "base/log.h"
#include "device/device.h"

struct post_code;

/* is_logged: each code that differs from the one before is told, at a bounded rate. */
struct post_code *post_code_new(const char *name, bool is_logged, struct error *err);
struct device *post_code_device(struct post_code *post_code);
/* One port. */
struct region post_code_region(struct post_code *post_code, uint64_t base);
