#pragma once
/* Blocks as text: guest instructions and the host code made of them, side by side. */

#include <stdio.h>

#include "engine/translator/look.h"

void listing_block(FILE *out, const struct look *look, const struct code_cache *cache,
                   const struct block *block);
