#include "device/pci/pci_host.h"

#include <assert.h>
#include <errno.h>

#include "base/log.h"

#define ADDRESS_ENABLE   0x80000000u
#define ADDRESS_WRITABLE 0x80fffffcu /* enable, bus, device and function, register */

#define DEVICES          32u
#define RESET_OFFSET     1 /* port cf9h, inside of the address register */

#define PAM              0x59u /* PAM0 to PAM6 */
#define PAM_COUNT        7u
#define PAM_ATTRIBUTES   0x33u
#define SMRAM            0x72u

struct pci_host {
    struct device device;
    struct pci_host_config config;
    struct pci_function function;
    struct pci_function *functions[DEVICES]; /* function 0 of each device */
    uint32_t address;
    uint8_t seen[PCI_PAM_RANGES]; /* attributes that the machine has been told */
};

/* The subsystem is that by which firmware for emulated machines knows that fw_cfg is
 * there. */
static const struct pci_identity identity = {
    .vendor = 0x8086,
    .device = 0x1237,
    .subsystem_vendor = 0x1af4,
    .subsystem = 0x1100,
    .revision = 2,
    .class_code = 0x060000,
};

/* --- PAM --- */

void pci_host_pam_range(unsigned range, uint64_t *base, uint64_t *size)
{
    bool is_last = range == PCI_PAM_RANGES - 1;
    *base = 0xc0000 + (uint64_t)range * 0x4000;
    *size = is_last ? 0x10000 : 0x4000;
}

/* The high half of PAM0 is f0000h; then each register has two ranges of 16 KiB, the lower
 * in its low half. */
static unsigned register_of(unsigned range, unsigned *shift)
{
    bool is_last = range == PCI_PAM_RANGES - 1;
    *shift = is_last || range % 2 ? 4 : 0;
    return is_last ? PAM : PAM + 1 + range / 2;
}

static unsigned attributes_of(const struct pci_host *host, unsigned range)
{
    unsigned shift, offset = register_of(range, &shift);
    return host->function.config[offset] >> shift & 3;
}

unsigned pci_host_pam(struct pci_host *host, unsigned range)
{
    pthread_mutex_lock(&host->device.lock);
    unsigned attributes = attributes_of(host, range);
    pthread_mutex_unlock(&host->device.lock);
    return attributes;
}

void pci_host_set_pam(struct pci_host *host, unsigned range, unsigned attributes)
{
    unsigned shift, offset = register_of(range, &shift);
    pthread_mutex_lock(&host->device.lock);
    unsigned value = host->function.config[offset] & ~(3u << shift);
    pci_config_write(&host->function, offset, 1, value | (attributes & 3) << shift);
    pthread_mutex_unlock(&host->device.lock);
}

static void update_pam(struct pci_host *host)
{
    for (unsigned i = 0; i < PCI_PAM_RANGES; i++) {
        unsigned attributes = attributes_of(host, i);
        if (attributes != host->seen[i]) {
            host->seen[i] = (uint8_t)attributes;
            if (host->config.pam_changed) {
                host->config.pam_changed(host->config.opaque, i, attributes);
            }
        }
    }
}

static void config_written(struct pci_function *function, unsigned offset, unsigned size)
{
    update_pam(container_of(function, struct pci_host, function));
}

/* --- Configuration mechanism 1 --- */

/* The function that the address register names, locked unless it is the bridge, whose
 * lock is held already; NULL: nobody answers. */
static struct pci_function *select_function(struct pci_host *host)
{
    bool is_here = host->address & ADDRESS_ENABLE &&
                   !(host->address >> 16 & 0xff) && /* bus 0 */
                   !(host->address >> 8 & 7);       /* function 0 */
    struct pci_function *function =
        is_here ? host->functions[host->address >> 11 & 31] : NULL;
    if (function && function != &host->function) {
        pthread_mutex_lock(&function->device->lock);
    }
    return function;
}

static void release_function(struct pci_host *host, struct pci_function *function)
{
    if (function != &host->function) {
        pthread_mutex_unlock(&function->device->lock);
    }
}

static uint64_t data_read(struct device *device, uint64_t offset, unsigned size)
{
    struct pci_host *host = (struct pci_host *)device;
    struct pci_function *function = select_function(host);
    if (!function) {
        return UINT64_MAX;
    }
    uint64_t value =
        pci_config_read(function, (host->address & 0xfc) + (unsigned)offset, size);
    release_function(host, function);
    return value;
}

static void data_write(struct device *device, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct pci_host *host = (struct pci_host *)device;
    struct pci_function *function = select_function(host);
    if (function) {
        pci_config_write(function, (host->address & 0xfc) + (unsigned)offset, size,
                         (uint32_t)value);
        release_function(host, function);
    }
}

/* Only a double word is the address register's; narrower accesses go to the ports behind
 * it (3.2.2.3.2), of which cf9h is the reset register. */
static bool is_reset(const struct pci_host *host, uint64_t offset, unsigned size)
{
    return size == 1 && offset == RESET_OFFSET && host->config.reset.device;
}

static uint64_t address_read(struct device *device, uint64_t offset, unsigned size)
{
    struct pci_host *host = (struct pci_host *)device;
    if (size == 4) {
        return host->address;
    }
    if (!is_reset(host, offset, size)) {
        return UINT64_MAX;
    }
    const struct region *reset = &host->config.reset;
    pthread_mutex_lock(&reset->device->lock);
    uint64_t value = reset->read(reset->device, 0, 1);
    pthread_mutex_unlock(&reset->device->lock);
    return value;
}

static void address_write(struct device *device, uint64_t offset, unsigned size,
                          uint64_t value)
{
    struct pci_host *host = (struct pci_host *)device;
    if (size == 4) {
        host->address = (uint32_t)value & ADDRESS_WRITABLE;
    } else if (is_reset(host, offset, size)) {
        const struct region *reset = &host->config.reset;
        pthread_mutex_lock(&reset->device->lock);
        reset->write(reset->device, 0, 1, value);
        pthread_mutex_unlock(&reset->device->lock);
    }
}

struct region pci_host_address_region(struct pci_host *host)
{
    return (struct region){&host->device, PCI_PORT_ADDRESS, 4, 1, 4,
                           address_read,  address_write};
}

struct region pci_host_data_region(struct pci_host *host)
{
    return (struct region){&host->device, PCI_PORT_DATA, 4, 1, 4, data_read, data_write};
}

/* --- Windows --- */

/* The function that decodes the address, locked; NULL: nobody. */
static struct pci_function *decode(struct pci_host *host, bool is_io, uint64_t address,
                                   const struct pci_bar **bar, uint64_t *offset)
{
    for (unsigned i = 1; i < DEVICES; i++) {
        struct pci_function *function = host->functions[i];
        if (!function) {
            continue;
        }
        pthread_mutex_lock(&function->device->lock);
        *bar = pci_bar_find(function, is_io, address, offset);
        if (*bar) {
            return function;
        }
        pthread_mutex_unlock(&function->device->lock);
    }
    return NULL;
}

static uint64_t window_read(struct pci_host *host, bool is_io, uint64_t address,
                            unsigned size)
{
    const struct pci_bar *bar;
    uint64_t offset, value = UINT64_MAX;
    struct pci_function *function = decode(host, is_io, address, &bar, &offset);
    if (function) {
        value = bar->read(function->device, offset, size);
        pthread_mutex_unlock(&function->device->lock);
    }
    return value;
}

static void window_write(struct pci_host *host, bool is_io, uint64_t address,
                         unsigned size, uint64_t value)
{
    const struct pci_bar *bar;
    uint64_t offset;
    struct pci_function *function = decode(host, is_io, address, &bar, &offset);
    if (function) {
        bar->write(function->device, offset, size, value);
        pthread_mutex_unlock(&function->device->lock);
    }
}

static uint64_t port_read(struct device *device, uint64_t offset, unsigned size)
{
    struct pci_host *host = (struct pci_host *)device;
    return window_read(host, true, host->config.port_base + offset, size);
}

static void port_write(struct device *device, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct pci_host *host = (struct pci_host *)device;
    window_write(host, true, host->config.port_base + offset, size, value);
}

static uint64_t memory_read(struct device *device, uint64_t offset, unsigned size)
{
    struct pci_host *host = (struct pci_host *)device;
    return window_read(host, false, host->config.memory_base + offset, size);
}

static void memory_write(struct device *device, uint64_t offset, unsigned size,
                         uint64_t value)
{
    struct pci_host *host = (struct pci_host *)device;
    window_write(host, false, host->config.memory_base + offset, size, value);
}

struct region pci_host_port_window(struct pci_host *host)
{
    return (struct region){
        &host->device, host->config.port_base, host->config.port_size, 1, 4, port_read,
        port_write};
}

struct region pci_host_memory_window(struct pci_host *host)
{
    return (struct region){&host->device,
                           host->config.memory_base,
                           host->config.memory_size,
                           1,
                           4,
                           memory_read,
                           memory_write};
}

void pci_host_add(struct pci_host *host, unsigned device, struct pci_function *function)
{
    assert(device > 0 && device < DEVICES && !host->functions[device]);
    host->functions[device] = function;
}

/* Takes the next place of a window; false: it is full. */
static bool take_place(uint64_t *next, uint64_t end, uint32_t size, uint32_t *place)
{
    uint64_t at = (*next + size - 1) & ~(uint64_t)(size - 1);
    if (at > end || size > end - at) {
        return false;
    }
    *place = (uint32_t)at;
    *next = at + size;
    return true;
}

int pci_host_assign(struct pci_host *host, struct error *err)
{
    const struct pci_host_config *config = &host->config;
    uint64_t ports = config->port_base, memory = config->memory_base;
    for (unsigned i = 1; i < DEVICES; i++) {
        struct pci_function *function = host->functions[i];
        for (unsigned j = 0; function && j < PCI_BARS; j++) {
            const struct pci_bar *bar = &function->identity->bar[j];
            uint32_t place;
            if (bar->size == 0) {
                continue;
            }
            bool has_room =
                bar->is_io
                    ? take_place(&ports, config->port_base + config->port_size, bar->size,
                                 &place)
                    : take_place(&memory, config->memory_base + config->memory_size,
                                 bar->size, &place);
            if (!has_room) {
                return fail_plain(err, ENOSPC, "no room on the PCI bus for %s",
                                  function->device->name);
            }
            pthread_mutex_lock(&function->device->lock);
            pci_config_write(function, PCI_BAR + 4 * j, 4, place);
            pci_config_write(function, PCI_COMMAND, 2,
                             PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
            pthread_mutex_unlock(&function->device->lock);
        }
    }
    return 0;
}

/* --- The device --- */

static void host_reset(struct device *device)
{
    struct pci_host *host = (struct pci_host *)device;
    pci_function_reset(&host->function);
    pci_config_write(&host->function, PCI_COMMAND, 2,
                     PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    host->address = 0;
    update_pam(host);
}

static void host_loaded(struct device *device)
{
    struct pci_host *host = (struct pci_host *)device;
    host->address &= ADDRESS_WRITABLE;
    pci_function_loaded(&host->function);
    update_pam(host);
}

static void host_free(struct device *device)
{
    device_fini(device);
    free(device);
}

static const struct device_field host_fields[] = {
    DEVICE_FIELD(struct pci_host, address),
    DEVICE_FIELD_ARRAY(struct pci_host, function.config),
    DEVICE_FIELD_END,
};

static const struct device_type host_type = {
    .name = "pci_host",
    .fields = host_fields,
    .reset = host_reset,
    .loaded = host_loaded,
    .free = host_free,
};

struct pci_host *pci_host_new(const char *name, const struct pci_host_config *config,
                              struct error *err)
{
    struct pci_host *host = calloc(1, sizeof(*host));
    if (!host) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&host->device, &host_type, name);
    host->config = *config;
    pci_function_init(&host->function, &host->device, &identity);
    host->function.written = config_written;
    for (unsigned i = 0; i < PAM_COUNT; i++) {
        host->function.writable[PAM + i] =
            i == 0 ? PAM_ATTRIBUTES & 0xf0 : PAM_ATTRIBUTES;
    }
    host->function.writable[SMRAM] = 0x78; /* kept only: there is no SMM */
    host->functions[0] = &host->function;
    host_reset(&host->device);
    return host;
}

struct device *pci_host_device(struct pci_host *host)
{
    return &host->device;
}
