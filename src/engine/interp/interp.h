#pragma once
/* The interpreter as an engine: works on every host, is exact, and is the slow path of
 * the others. */

#include "engine/engine.h"

extern const struct engine_ops engine_interp;
