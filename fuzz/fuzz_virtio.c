/*
 * A block device, driven by a hostile guest: any register at any time, and memory with
 * rings and requests of random contents, changing while requests are under way. An input
 * is a series of commands.
 */

#include <stdlib.h>
#include <string.h>

#include "../tests/unit/device/virtio_rig.h"
#include "input.h"

#define COMMANDS_MAX 200

/* REQUEST comes often, and mostly right: what is wrong with it comes from the others. */
enum operation {
    REQUEST,
    REQUEST_AND_KICK,
    KICK,
    DESCRIPTOR,
    INDIRECT,
    OFFER,
    POKE,
    WRITE,
    READ,
    START,
    RELOAD,
    LAST
};

/* An address near something: the rings, the seam of two slots, the end of RAM, none. */
static uint64_t address(struct input *input)
{
    static const uint64_t base[] = {0,       0x8000,   RIG_RINGS,        RIG_INDIRECT,
                                    RIG_ROM, RIG_SEAM, RIG_RAM + 0x1000, UINT64_MAX - 64};
    uint8_t choice = input_u8(input);
    uint64_t offset = input_u8(input) | (uint64_t)input_u8(input) << 8;
    return choice == 255 ? input_u64(input) : base[choice % 8] + offset - 64;
}

static struct vring_desc descriptor(struct input *input)
{
    static const uint32_t length[] = {0,  1,   16,  17,   20,        32,
                                      48, 512, 513, 4096, 0xffffffff};
    struct vring_desc value = {.addr = address(input)};
    uint8_t choice = input_u8(input);
    value.len = length[choice % array_size(length)];
    value.flags = input_u8(input) & 7;
    value.next = input_u8(input) % (RIG_QUEUE_SIZE + 1);
    return value;
}

static void reload(struct rig *rig)
{
    struct device *device = virtio_blk_device(rig->blk);
    size_t size = device_state_size(device->type);
    uint8_t *buffer = malloc(size);
    device_save(device, buffer);
    if (device_load(device, buffer, size, NULL) < 0) {
        abort();
    }
    free(buffer);
}

/* A header's type and sector, or anything else, somewhere in RAM. */
static void poke(struct rig *rig, struct input *input)
{
    struct virtio_blk_outhdr header = {.type = input_u8(input) % 16,
                                       .sector = input_u8(input)};
    header.sector -= 2;
    ram_write(rig->memory, address(input), &header, sizeof(header));
}

static void request(struct rig *rig, unsigned queue, struct input *input)
{
    static const uint32_t types[] = {
        VIRTIO_BLK_T_IN,     VIRTIO_BLK_T_OUT,     VIRTIO_BLK_T_FLUSH,
        VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES,
    };
    static const uint32_t sizes[] = {512, 16, 20, 0, 1024, 32, 4096, 513};
    gpa_t place = 0x8000 + input_u8(input) % 32 * 32;
    uint32_t type = types[input_u8(input) % array_size(types)];
    uint64_t sector = input_u8(input) % (RIG_SECTORS + 2);
    gpa_t data = address(input);
    uint32_t size = sizes[input_u8(input) % array_size(sizes)];
    rig_offer(rig, queue, rig_request(rig, queue, place, type, sector, data, size));
}

static void run_command(struct rig *rig, struct input *input)
{
    unsigned queue = input_u8(input) % RIG_QUEUES;
    struct vring_desc value;
    switch (input_u8(input) % LAST) {
    case REQUEST:
        request(rig, queue, input);
        break;
    case REQUEST_AND_KICK:
        request(rig, queue, input);
        rig_kick(rig, queue);
        break;
    case READ:
        rig_read(rig, (input_u64(input) % VIRTIO_MMIO_SIZE) & ~3ull);
        break;
    case WRITE:
        rig_write(rig, input_u8(input) & ~3ull, (uint32_t)input_u64(input));
        break;
    case START:
        rig_start(rig, input_u64(input) & rig->virtio->features);
        break;
    case DESCRIPTOR:
        value = descriptor(input);
        *rig_descriptor(rig, queue, input_u8(input)) = value;
        break;
    case INDIRECT:
        value = descriptor(input);
        memcpy(rig_ram(rig, RIG_INDIRECT + input_u8(input) % 17 * sizeof(value)), &value,
               sizeof(value));
        break;
    case OFFER:
        rig_offer(rig, queue, input_u8(input) % (RIG_QUEUE_SIZE + 1));
        break;
    case KICK:
        rig_kick(rig, queue);
        break;
    case POKE:
        poke(rig, input);
        break;
    case RELOAD:
        reload(rig);
        break;
    }
}

/* Made once, because their threads take longer to start than an input to run. */
static struct rig *rig_fresh(bool is_readonly)
{
    static struct rig rigs[2];
    struct rig *rig = &rigs[is_readonly];
    if (!rig->memory) {
        rig_init(rig, is_readonly);
    }
    device_reset(virtio_blk_device(rig->blk));
    memset(rig_ram(rig, 0), 0, RIG_SEAM);
    memset(rig_ram(rig, RIG_SEAM), 0, RIG_RAM - RIG_SEAM);
    return rig;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    struct rig *rig = rig_fresh(input_u8(&input) & 1);
    rig_start(rig, rig->virtio->features);
    for (unsigned i = 0; i < COMMANDS_MAX && input.size > 0; i++) {
        run_command(rig, &input);
    }
    device_drain(virtio_blk_device(rig->blk));
    return 0;
}
