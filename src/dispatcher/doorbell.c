#include "dispatcher/doorbell.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "dispatcher/vm.h"

struct doorbell {
    struct doorbell *next;
    struct vm *vm;
    struct engine_doorbell engine;
};

/* Only in the event loop's thread, so that vm_hear_doorbells misses none under way. */
static void hear(void *opaque, int fd, uint32_t events)
{
    struct doorbell *bell = opaque;
    uint64_t rings;
    if (read(fd, &rings, sizeof(rings)) == sizeof(rings)) {
        uint8_t data[4];
        memcpy(data, &bell->engine.value, sizeof(data));
        bus_access(&bell->vm->mmio, bell->engine.gpa, sizeof(data), true, data);
    }
}

static void bell_free(struct doorbell *bell)
{
    if (bell && bell->engine.fd >= 0) {
        close(bell->engine.fd);
    }
    free(bell);
}

static struct doorbell *bell_new(struct vm *vm, gpa_t gpa, uint32_t value,
                                 struct error *err)
{
    struct doorbell *bell = calloc(1, sizeof(*bell));
    if (!bell) {
        fail(err, ENOMEM, "cannot make a doorbell");
        return NULL;
    }
    bell->vm = vm;
    bell->engine = (struct engine_doorbell){
        .gpa = gpa, .value = value, .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    if (bell->engine.fd < 0) {
        fail(err, errno, "eventfd");
    } else if (loop_add(vm->loop, bell->engine.fd, EPOLLIN, hear, bell, err) >= 0) {
        if (vm->engine_ops->doorbell(vm->engine, &bell->engine, true, err) >= 0) {
            return bell;
        }
        loop_remove(vm->loop, bell->engine.fd);
    }
    bell_free(bell);
    return NULL;
}

void vm_add_doorbell(struct vm *vm, gpa_t gpa, uint32_t value)
{
    struct error err;
    if (!vm->engine_ops->doorbell) {
        return;
    }
    struct doorbell *bell = bell_new(vm, gpa, value, &err);
    if (!bell) {
        log_info("notifications at %#llx are exits: %s", (unsigned long long)gpa,
                 err.message);
        return;
    }
    bell->next = vm->doorbells;
    vm->doorbells = bell;
}

void vm_hear_doorbells(struct vm *vm)
{
    for (struct doorbell *bell = vm->doorbells; bell; bell = bell->next) {
        hear(bell, bell->engine.fd, EPOLLIN);
    }
}

void vm_close_doorbells(struct vm *vm)
{
    while (vm->doorbells) {
        struct doorbell *bell = vm->doorbells;
        vm->doorbells = bell->next;
        vm->engine_ops->doorbell(vm->engine, &bell->engine, false, NULL);
        loop_remove(vm->loop, bell->engine.fd);
        bell_free(bell);
    }
}
