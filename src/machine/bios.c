#include "machine/bios.h"

#include <errno.h>
#include "dispatcher/vcpu.h"
#include "machine/memory_map.h"

#define VECTORS      256u
#define DATA_AREA    0x400u
#define DATA_SERIAL  0x400u /* ports of the serial ports */
#define DATA_EBDA    0x40eu /* segment */
#define DATA_DEVICES 0x410u
#define DATA_MEMORY  0x413u /* KiB */

#define DEVICES_FPU  0x0002u
#define DEVICES_COM1 0x0200u /* one serial port */

#define ROM_SEGMENT  0xf000u
#define ROM_BASE     0xf0000u

/* Where the PC's own BIOS has them (IBM AT Technical Reference, "ROM BIOS"). */
#define HANDLER_TIMER 0xfea5u
#define HANDLER_NONE  0xff53u
#define RESET_VECTOR  0xfff0u
/* Ours. */
#define HANDLER_PIC   0xff60u
#define HANDLER_SLAVE 0xff70u

static const uint8_t timer_code[] = {
    0x50, 0x1e,                   /* push ax; push ds */
    0xb8, 0x40, 0x00, 0x8e, 0xd8, /* mov ax, 40h; mov ds, ax */
    0x66, 0xff, 0x06, 0x6c, 0x00, /* inc dword [6ch]: ticks since midnight */
    0xcd, 0x1c,                   /* int 1ch: whoever counts along */
    0xb0, 0x20, 0xe6, 0x20,       /* mov al, 20h; out 20h, al: end of interrupt */
    0x1f, 0x58, 0xcf,             /* pop ds; pop ax; iret */
};
static const uint8_t none_code[] = {0xcf};
static const uint8_t pic_code[] = {
    0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf, /* end of interrupt; iret */
};
static const uint8_t slave_code[] = {
    0x50, 0xb0, 0x20, 0xe6, 0xa0, 0xe6, 0x20, 0x58, 0xcf, /* the same for both */
};
static const uint8_t reset_code[] = {
    0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, /* mov dx, cf9h; mov al, 6; out dx, al */
    0xf4, 0xeb, 0xfd,                   /* hlt; jmp back */
};

static const struct {
    uint16_t offset, size;
    const uint8_t *code;
} routines[] = {
    {HANDLER_TIMER, sizeof(timer_code), timer_code},
    {HANDLER_NONE, sizeof(none_code), none_code},
    {HANDLER_PIC, sizeof(pic_code), pic_code},
    {HANDLER_SLAVE, sizeof(slave_code), slave_code},
    {RESET_VECTOR, sizeof(reset_code), reset_code},
};

static const struct {
    uint16_t address, value;
} data[] = {
    {DATA_SERIAL, PORT_SERIAL},
    {DATA_EBDA, MAP_EBDA >> 4},
    {DATA_DEVICES, DEVICES_FPU | DEVICES_COM1},
    {DATA_MEMORY, MAP_EBDA >> 10},
};

static const struct {
    uint16_t port;
    uint8_t value;
} port_writes[] = {
    /* 8259s: edges, cascaded at input 2, vectors 8h and 70h; only the timer is let
     * through, for nobody drives the other devices. */
    {0x20, 0x11},
    {0x21, 0x08},
    {0x21, 0x04},
    {0x21, 0x01},
    {0xa0, 0x11},
    {0xa1, 0x70},
    {0xa1, 0x02},
    {0xa1, 0x01},
    {0x21, 0xfa},
    {0xa1, 0xff},
    /* 8254: channel 0 divides by 65536, square wave. */
    {0x43, 0x36},
    {0x40, 0x00},
    {0x40, 0x00},
};

static uint16_t handler_of(unsigned vector)
{
    if (vector == 0x08) {
        return HANDLER_TIMER;
    }
    return vector > 0x08 && vector < 0x10    ? HANDLER_PIC
           : vector >= 0x70 && vector < 0x78 ? HANDLER_SLAVE
                                             : HANDLER_NONE;
}

static bool put_vectors(struct memory *memory)
{
    uint32_t vector[VECTORS];
    for (unsigned i = 0; i < VECTORS; i++) {
        vector[i] = ROM_SEGMENT << 16 | handler_of(i);
    }
    return ram_write(memory, 0, vector, sizeof(vector));
}

static bool put_data(struct memory *memory)
{
    bool ok = ram_clear(memory, DATA_AREA, 0x100);
    for (unsigned i = 0; ok && i < array_size(data); i++) {
        ok = ram_write(memory, data[i].address, &data[i].value, sizeof(data[i].value));
    }
    const uint8_t ebda_size = 1; /* KiB, in its first byte */
    return ok && ram_write(memory, MAP_EBDA, &ebda_size, 1);
}

int bios_leave(struct vm *vm, struct error *err)
{
    bool ok = put_vectors(vm->memory) && put_data(vm->memory);
    for (unsigned i = 0; ok && i < array_size(routines); i++) {
        ok = ram_write(vm->memory, ROM_BASE + routines[i].offset, routines[i].code,
                       routines[i].size);
    }
    for (unsigned i = 0; i < array_size(port_writes); i++) {
        uint8_t value = port_writes[i].value;
        bus_access(&vm->ports, port_writes[i].port, 1, true, &value);
    }
    lapic_set_virtual_wire(&vm->vcpu[0]->lapic);
    return ok ? 0 : fail_plain(err, ENOMEM, "no guest memory for the interrupt vectors");
}
