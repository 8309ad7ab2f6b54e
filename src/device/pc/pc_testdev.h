#pragma once
/*
 * QEMU's pc-testdev: what tests of a PC's processor and interrupt controllers need
 * besides a PC: interrupt lines driven at will, ports and memory that give back what was
 * written, and a page that the monitor forgets its mapping of.
 */

#include "device/device.h"
#include "device/irq.h"

#define PC_TESTDEV_LINES       24u
#define PC_TESTDEV_MEMORY_SIZE 0x10000u

struct pc_testdev;

struct pc_testdev_bus {
    /* Interrupt line n. */
    struct irq_line line[PC_TESTDEV_LINES];
    /* The guest touches the page at gpa next: nothing that the host keeps to reach it
     * faster may be left. Called with the device's lock held; gpa is any. */
    void (*forget_page)(void *opaque, uint64_t gpa);
    void *opaque;
};

struct pc_testdev *pc_testdev_new(const char *name, const struct pc_testdev_bus *bus,
                                  struct error *err);
struct device *pc_testdev_device(struct pc_testdev *testdev);

enum pc_testdev_block {
    PC_TESTDEV_WORD,  /* 4 ports, in any width */
    PC_TESTDEV_FLUSH, /* 4 ports: a guest-physical address */
    PC_TESTDEV_BYTE,  /* 4 ports: the same register as WORD, byte by byte */
    PC_TESTDEV_IRQ,   /* 24 ports: one for each line */
    PC_TESTDEV_MEMORY,
};
struct region pc_testdev_region(struct pc_testdev *testdev, enum pc_testdev_block block,
                                uint64_t base);
