#pragma once
/*
 * Snapshots: a VM in a directory, from which it goes on in another process, on another
 * engine or host. docs/snapshots.md describes the files.
 */

#include "machine/machine.h"

/* The files of a snapshot. */
#define SNAPSHOT_STATE    "state"
#define SNAPSHOT_MEMORY   "memory"
#define SNAPSHOT_KERNEL   "kernel" /* or the firmware, where that is what was started */
#define SNAPSHOT_INITRD   "initrd"
#define SNAPSHOT_MANIFEST "manifest.json"

/*
 * Saves a VM that runs or is paused. It stands still while its memory is written, and
 * then is as it was before, whatever happens. dir must not exist, or be an empty
 * directory; it appears when everything is on disk, and not at all after a failure.
 *
 * Not from a vCPU's thread or a device. From the event loop's thread no input can arrive
 * meanwhile; from another one the caller keeps others from resuming the VM.
 */
int vm_snapshot(struct vm *vm, const char *dir, struct error *err);
/* The same in a directory whose parent is open already; dir is for its name. */
int vm_snapshot_at(struct vm *vm, int parent, const char *dir, struct error *err);

/* The files, in the order in which vm_snapshot_files takes them. */
#define SNAPSHOT_FILES 5
extern const char *const snapshot_file_name[SNAPSHOT_FILES];
/*
 * The same into empty files that somebody else made, and will flush and give their place:
 * for a process that may make none. One that stays empty (there is no initrd, say) is not
 * part of the snapshot.
 */
int vm_snapshot_files(struct vm *vm, const int fd[SNAPSHOT_FILES], struct error *err);

/* A snapshot that has been read and checked, all but its memory. */
struct snapshot;

/* Fails with a message that names the directory and what is wrong in it. */
struct snapshot *snapshot_open(const char *dir, struct error *err);
void snapshot_close(struct snapshot *snapshot);
/*
 * What it was made from, for vm_restore; the texts live as long as the snapshot. The
 * caller chooses what belongs to the process: engine, console, exit_stats, and may
 * change name and no_reboot. The engine is "auto".
 */
struct machine_config snapshot_config(const struct snapshot *snapshot);
/*
 * Makes the VM; vm_start then goes on where it was saved, and machine_console_resume
 * sends what its serial port still held. Memory is checked as a whole, but brought in as
 * it is touched, where the host can; the directory may be removed meanwhile. The snapshot
 * can be closed when it returns; it serves for one VM. config's texts are borrowed as by
 * machine_new.
 */
struct vm *vm_restore(struct snapshot *snapshot, const struct machine_config *config,
                      const struct console_port *console, struct error *err);
