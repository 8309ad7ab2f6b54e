#pragma once
/* A call that no filter allows: says which, and ends the process. */

#include "jail/jail.h"

/* end is called in a signal handler, after the message, and does not return. */
int violation_catch(void (*end)(void), struct error *err);
/* The calling thread's role, for the message; its SIGSYS is let through. */
void violation_expect(enum jail_role role);
