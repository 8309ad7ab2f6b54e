#include "x86/paravirt.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/scope.h"

struct service {
    const char *name;
    uint32_t features;
};

static const struct service services[] = {
    {"clock", PARAVIRT_CLOCK | PARAVIRT_CLOCK_OLD | PARAVIRT_CLOCK_STABLE},
    {"io-delay", PARAVIRT_IO_DELAY},
    {"steal", PARAVIRT_STEAL},
    {"ipi", PARAVIRT_IPI},
    {"yield", PARAVIRT_YIELD},
    {"eoi", PARAVIRT_EOI},
    {"tlb-flush", PARAVIRT_TLB_FLUSH | PARAVIRT_STEAL}, /* by the same page */
};

const char *paravirt_service_name(unsigned index, uint32_t *features)
{
    if (index >= array_size(services)) {
        return NULL;
    }
    *features = services[index].features;
    return services[index].name;
}

static const struct service *find(const char *name, size_t length)
{
    for (unsigned i = 0; i < array_size(services); i++) {
        if (strlen(services[i].name) == length &&
            !memcmp(services[i].name, name, length)) {
            return &services[i];
        }
    }
    return NULL;
}

int paravirt_parse(const char *list, uint32_t *features, struct error *err)
{
    uint32_t sum = 0;
    if (!strcmp(list, "none")) {
        *features = 0;
        return 0;
    }
    if (!strcmp(list, "all")) {
        for (unsigned i = 0; i < array_size(services); i++) {
            sum |= services[i].features;
        }
        *features = sum;
        return 0;
    }
    for (const char *name = list;; name++) {
        size_t length = strcspn(name, ",");
        const struct service *service = find(name, length);
        if (!service) {
            return fail_plain(err, EINVAL,
                              "unknown service '%.*s': all, none, or a list of clock, "
                              "io-delay, steal, ipi, yield, eoi, tlb-flush",
                              (int)length, name);
        }
        sum |= service->features;
        name += length;
        if (!*name) {
            *features = sum;
            return 0;
        }
    }
}

void paravirt_init_signal(struct paravirt_registers *registers)
{
    uint64_t wall_clock = registers->wall_clock;
    *registers = (struct paravirt_registers){.wall_clock = wall_clock};
}

void paravirt_clock_scale(uint32_t tsc_khz, uint32_t *multiplier, int8_t *shift)
{
    /* ns per tick = 10^6 / khz, as a fraction of 32 bits with its highest bit set. */
    unsigned __int128 fraction = ((unsigned __int128)1000000 << 64) / tsc_khz;
    int8_t exponent = 32;
    while (fraction >> 64) {
        fraction >>= 1;
        exponent++;
    }
    while (!(fraction >> 63)) {
        fraction <<= 1;
        exponent--;
    }
    /* fraction / 2^64 * 2^(exponent - 32), of which the upper half is kept. */
    *multiplier = (uint32_t)(fraction >> 32);
    *shift = (int8_t)(exponent - 32);
}
