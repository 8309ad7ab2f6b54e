#pragma once
/*
 * The GDB remote protocol (GDB manual, appendix E): a stub in the VM's event loop, for
 * one debugger at a time. vCPUs are threads, numbered from 1; the VM stands still
 * whenever the debugger has the word.
 */

#include "dispatcher/vm.h"

struct gdb;

/*
 * Listens at where, ADDRESS[,wait]: the address is PORT or HOST:PORT (the host is
 * 127.0.0.1 if not given), or the path of a Unix socket, which has a slash. The VM goes
 * on until a debugger connects; with wait it executes nothing before one has connected
 * and said so. Call before vm_start.
 */
struct gdb *gdb_open(struct vm *vm, const char *where, struct error *err);
/* Where it listens, for people: "127.0.0.1:1234". Borrowed. */
const char *gdb_address(const struct gdb *gdb);
/* Tells the debugger that the VM ended with this exit status, and stops listening.
 * Accepts NULL. */
void gdb_close(struct gdb *gdb, int status);
