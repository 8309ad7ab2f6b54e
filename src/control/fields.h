#pragma once
/*
 * JSON objects read by the same tables as command lines: bodies of requests, --config.
 * A key is an option's name; flags are true or false, numbers are numbers, sizes numbers
 * of bytes or strings such as "512M", everything else strings. What may be given several
 * times may be an array. null stands for not given.
 */

#include "base/option.h"

struct json_t;

/*
 * Reads object into target. Strings are borrowed from it. Unknown keys, wrong types and
 * values out of range are refused by name, unknown ones with the nearest known.
 */
int fields_parse(const struct option_spec *table, const struct json_t *object,
                 void *target, struct error *err);
/* "string", "true or false": what a value of that row must be, for messages and docs. */
const char *fields_type(const struct option_spec *spec);
/* Reads a file of at most a megabyte with one JSON object. The caller ends it with
 * json_decref. */
struct json_t *fields_load(const char *path, struct error *err);
/* The other way round: the fields of target as an object, for tables without CUSTOM rows.
 * NULL when memory is short or a string is not UTF-8. */
struct json_t *fields_format(const struct option_spec *table, const void *target);
