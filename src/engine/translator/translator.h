#pragma once
/* Binary translation: guest code becomes host code, block by block; what is sensitive or
 * rare is the interpreter's. docs/translator.md describes it. */

#include "engine/engine.h"

extern const struct engine_ops engine_translator;
