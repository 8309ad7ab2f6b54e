#pragma once
/*
 * The parts of a VM's state besides its memory. Loading has two steps: check reads the
 * stream into a struct state_image and may fail; apply puts the image into the VM and
 * cannot.
 *
 * To add a part: one file with a struct state_part, one row in part.c's table.
 */

#include "dispatcher/vcpu.h"
#include "state/stream.h"

/* What a stream says of a VM, checked. */
struct state_image {
    uint64_t clock_ns;
    uint64_t arbitration;
    struct {
        struct x86_state state;
        struct lapic lapic;
        struct paravirt paravirt;
    } cpu[VM_CPUS_MAX];
    uint8_t *device[array_size(((struct vm *)0)->device)]; /* flat forms; owned */
};

void state_image_fini(struct state_image *image);

struct state_part {
    const char *name;
    /* The VM is paused. */
    void (*save)(struct vm *vm, struct stream_writer *writer);
    int (*check)(const struct vm *vm, struct stream *stream, struct state_image *image,
                 struct error *err);
    void (*apply)(struct vm *vm, const struct state_image *image);
};

/* In the order of applying; ends with NULL. */
extern const struct state_part *const state_parts[];

/* Every part into the writer's stream. */
void state_save(struct vm *vm, struct stream_writer *writer);
/* Fails with nothing changed. */
int state_check(const struct vm *vm, struct stream *stream, struct state_image *image,
                struct error *err);
/* Into a VM that has not been started. */
void state_apply(struct vm *vm, const struct state_image *image);
