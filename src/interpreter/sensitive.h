#pragma once
/* Why instructions are sensitive: one row for each sensitive row of the instruction
 * tables. */

#include "interpreter/insn.h"

/* For a sensitive row: what it shows or changes on the bare processor, and where the
 * manuals say so. NULL for an innocuous one. */
const char *insn_why_sensitive(const struct insn_row *row);

/* "privileged", "control-sensitive", "behaviour-sensitive", "innocuous". */
const char *insn_class_name(enum insn_class class);

#define INSN_NAME_SIZE 48
/* The mnemonic as manuals write it, with the row's form: "MOV CR, r". */
void insn_row_name(const struct insn_row *row, char name[INSN_NAME_SIZE]);
