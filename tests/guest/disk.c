/*
 * A virtio disk by its memory-mapped transport (virtio 1.2 sections 2.7, 4.2, 5.2): reads
 * by one request after another and by many at once, waiting for the used ring or for the
 * interrupt. The disk (make-disk) says in each sector which one it is.
 *
 * The number of requests is the command line, 64 without one; see docs/engines.md.
 */
#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define BASE          0xd0000000ull
#define INPUT         16u
#define VECTOR        0x55
#define QUEUE_SIZE    64u
#define SECTORS       128u
#define SECTOR        512u

#define REG_MAGIC     0x000
#define REG_DEVICE    0x008
#define REG_FEATURES  0x020
#define REG_SELECT    0x024
#define REG_QUEUE     0x030
#define REG_SIZE      0x038
#define REG_READY     0x044
#define REG_NOTIFY    0x050
#define REG_INTERRUPT 0x060
#define REG_ACK       0x064
#define REG_STATUS    0x070
#define REG_DESC      0x080
#define REG_DRIVER    0x090
#define REG_USED      0x0a0

#define STATUS_READY  0xfu /* acknowledged, driver, features, driver OK */
#define NEXT          1u
#define WRITABLE      2u

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct request {
    uint32_t type, reserved; /* 0: read */
    uint64_t sector;
    volatile uint8_t status;
};

static struct descriptor *descriptors;
static volatile uint16_t *available; /* flags, index, ring */
static volatile uint16_t *used;      /* flags, index, ring of 8 bytes */
static struct request requests[QUEUE_SIZE / 4];
static uint8_t *buffers;
static uint16_t offered;
static volatile uint32_t interrupts, unasked;

static uint32_t reg_read(uint32_t offset)
{
    return *(volatile uint32_t *)(BASE + offset);
}

static void reg_write(uint32_t offset, uint32_t value)
{
    *(volatile uint32_t *)(BASE + offset) = value;
}

static void reg_write_address(uint32_t offset, const volatile void *address)
{
    reg_write(offset, (uint32_t)(uint64_t)address);
    reg_write(offset + 4, (uint32_t)((uint64_t)address >> 32));
}

static void set_up(void)
{
    ASSERT_EQ(reg_read(REG_MAGIC), 0x74726976);
    ASSERT_EQ(reg_read(REG_DEVICE), 2);
    reg_write(REG_STATUS, 0);
    reg_write(REG_STATUS, 3);
    reg_write(REG_SELECT, 1); /* VIRTIO_F_VERSION_1, which is bit 32 */
    reg_write(REG_FEATURES, 1);
    reg_write(REG_STATUS, 0xb);
    ASSERT_EQ(reg_read(REG_STATUS), 0xb);
    descriptors = page_new();
    available = page_new();
    used = page_new();
    buffers = page_new_run(2 * PAGE_SIZE);
    reg_write(REG_QUEUE, 0);
    reg_write(REG_SIZE, QUEUE_SIZE);
    reg_write_address(REG_DESC, descriptors);
    reg_write_address(REG_DRIVER, available);
    reg_write_address(REG_USED, used);
    reg_write(REG_READY, 1);
    reg_write(REG_STATUS, STATUS_READY);
    ASSERT_EQ(reg_read(REG_STATUS), STATUS_READY);
}

/* Request number `place` reads that sector; the device is not told yet. */
static void offer(unsigned place, uint64_t sector)
{
    struct request *request = &requests[place];
    struct descriptor *chain = &descriptors[4 * place];
    uint16_t first = (uint16_t)(4 * place);
    *request = (struct request){.sector = sector, .status = 0xff};
    chain[0] = (struct descriptor){(uint64_t)request, 16, NEXT, (uint16_t)(first + 1)};
    chain[1] = (struct descriptor){(uint64_t)(buffers + place * SECTOR), SECTOR,
                                   NEXT | WRITABLE, (uint16_t)(first + 2)};
    chain[2] = (struct descriptor){(uint64_t)&request->status, 1, WRITABLE, 0};
    available[2 + offered % QUEUE_SIZE] = first;
    offered++;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    available[1] = offered;
}

static void check(unsigned place, uint64_t sector)
{
    const uint8_t *buffer = buffers + place * SECTOR;
    ASSERT_EQ(requests[place].status, 0);
    for (unsigned i = 0; i < SECTOR; i += 64) {
        ASSERT_EQ(buffer[i], sector);
    }
}

static void wait_used(void)
{
    uint32_t start = port_read32(PM_TIMER_PORT);
    while (used[1] != offered) {
        ASSERT(port_read32(PM_TIMER_PORT) - start < 10 * PM_TIMER_RATE);
        pause();
    }
}

static void poll(unsigned count)
{
    case_begin("%u reads, one after another", count);
    available[0] = 1; /* no interrupts */
    for (unsigned i = 0; i < count; i++) {
        offer(0, i % SECTORS);
        reg_write(REG_NOTIFY, 0);
        wait_used();
        check(0, i % SECTORS);
    }
}

static void try_many(void)
{
    case_begin("many at once, told of once");
    for (unsigned i = 0; i < COUNT_OF(requests); i++) {
        offer(i, i * 7);
    }
    reg_write(REG_NOTIFY, 0);
    wait_used();
    for (unsigned i = 0; i < COUNT_OF(requests); i++) {
        check(i, i * 7);
    }
    case_begin("a notification of nothing, and of a queue that is not there");
    reg_write(REG_NOTIFY, 0);
    reg_write(REG_NOTIFY, 1000);
    ASSERT_EQ(reg_read(REG_STATUS), STATUS_READY);
}

static void on_interrupt(struct trap_frame *frame)
{
    (void)frame;
    uint32_t causes = reg_read(REG_INTERRUPT);
    reg_write(REG_ACK, causes);
    if (causes) {
        interrupts++;
    } else {
        unasked++;
    }
    apic_eoi();
}

static void wait_interrupt(unsigned count)
{
    case_begin("%u reads, each until its interrupt", count);
    available[0] = 0;
    trap_set_handler(VECTOR, on_interrupt);
    ioapic_route(INPUT, VECTOR | IOAPIC_LEVEL, apic_id());
    for (unsigned i = 0; i < count; i++) {
        uint32_t before = interrupts;
        offer(0, i % SECTORS);
        reg_write(REG_NOTIFY, 0);
        while (interrupts == before) {
            __asm__ volatile("sti; hlt; cli" : : : "memory");
        }
        ASSERT_EQ(used[1], offered);
        check(0, i % SECTORS);
    }
    ioapic_route(INPUT, IOAPIC_MASKED, 0);
    print("# %u interrupts without a cause\n", unasked);
}

static void try_reset(void)
{
    case_begin("a notification behind a reset is of nothing");
    offer(0, 1);
    reg_write(REG_STATUS, 0);
    reg_write(REG_NOTIFY, 0);
    ASSERT_EQ(reg_read(REG_STATUS), 0);
    offered = 0;
    set_up();
    poll(1);
}

void guest_test(void)
{
    unsigned count = (unsigned)guest_number(64);
    apic_enable(true);
    case_begin("the device is there, and takes a driver");
    set_up();
    poll(count);
    try_many();
    wait_interrupt(count);
    try_reset();
}
