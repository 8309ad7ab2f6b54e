#pragma once
/* Capabilities (libcap-ng): none are kept. */

/* So that none comes back by an executable: for the process, while it has one thread.
 * 0; -EPERM: it had none to give away. */
int capability_drop_bounds(void);
/* All the calling thread has, for good. 0 or -errno. */
int capability_drop(void);
