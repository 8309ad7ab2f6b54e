#include "device/pc/uart16550.h"

#include <errno.h>
#include <string.h>

#define REG_DATA      0 /* RBR, THR; with DLAB the divisor's low byte */
#define REG_IER       1 /* with DLAB the divisor's high byte */
#define REG_IIR       2 /* written: FCR */
#define REG_LCR       3
#define REG_MCR       4
#define REG_LSR       5
#define REG_MSR       6
#define REG_SCR       7

#define IER_RX        0x01
#define IER_THRE      0x02
#define IER_LINE      0x04
#define IER_MODEM     0x08
#define IER_MASK      0x0f

#define IIR_MODEM     0x00
#define IIR_NONE      0x01
#define IIR_THRE      0x02
#define IIR_RX        0x04
#define IIR_LINE      0x06
#define IIR_TIMEOUT   0x0c
#define IIR_FIFOS     0xc0

#define FCR_ENABLE    0x01
#define FCR_CLEAR_RX  0x02
#define FCR_CLEAR_TX  0x04
#define FCR_KEPT      0xc9 /* trigger level, DMA mode, enable */

#define LCR_STOP      0x04
#define LCR_PARITY    0x08
#define LCR_DLAB      0x80

#define MCR_DTR       0x01
#define MCR_RTS       0x02
#define MCR_OUT1      0x04
#define MCR_OUT2      0x08
#define MCR_LOOP      0x10
#define MCR_MASK      0x1f

#define LSR_DATA      0x01
#define LSR_OVERRUN   0x02
#define LSR_THRE      0x20
#define LSR_TEMT      0x40

#define MSR_DELTA_CTS 0x01
#define MSR_DELTA_DSR 0x02
#define MSR_RI_ENDED  0x04
#define MSR_DELTA_DCD 0x08
#define MSR_CTS       0x10
#define MSR_DSR       0x20
#define MSR_RI        0x40
#define MSR_DCD       0x80
#define MSR_DELTAS    0x0f
#define MSR_CONNECTED (MSR_CTS | MSR_DSR | MSR_DCD)

#define CRYSTAL_HZ    1843200u

struct uart16550 {
    struct device device;
    struct irq_line irq;
    bool irq_level; /* as last driven */
    struct uart16550_sink sink;
    struct timer timeout;
    uint64_t timeout_deadline; /* guest ns, TIMER_NEVER when not running */
    uint16_t divisor;
    uint8_t ier, fcr, lcr, mcr, msr, scr;
    uint8_t overrun;
    uint8_t thre_pending; /* the transmitter's interrupt, until read or a byte written */
    uint8_t timeout_pending; /* the receiver's time-out interrupt */
    uint8_t is_starved;      /* input was refused: sink.room is owed */
    uint8_t rx_count, tx_count;
    uint8_t rx[UART16550_FIFO_SIZE]; /* oldest first */
    uint8_t tx[UART16550_FIFO_SIZE]; /* what the sink has not taken, oldest first */
};

static unsigned fifo_size(const struct uart16550 *uart)
{
    return uart->fcr & FCR_ENABLE ? UART16550_FIFO_SIZE : 1;
}

static unsigned rx_trigger(const struct uart16550 *uart)
{
    static const uint8_t level[] = {1, 4, 8, 14};
    return uart->fcr & FCR_ENABLE ? level[uart->fcr >> 6] : 1;
}

/* The source of highest priority (data sheet, table IV). */
static uint8_t pending_source(const struct uart16550 *uart)
{
    if (uart->ier & IER_LINE && uart->overrun) {
        return IIR_LINE;
    }
    if (uart->ier & IER_RX && uart->rx_count >= rx_trigger(uart)) {
        return IIR_RX;
    }
    if (uart->ier & IER_RX && uart->timeout_pending) {
        return IIR_TIMEOUT;
    }
    if (uart->ier & IER_THRE && uart->thre_pending) {
        return IIR_THRE;
    }
    if (uart->ier & IER_MODEM && uart->msr & MSR_DELTAS) {
        return IIR_MODEM;
    }
    return IIR_NONE;
}

/* On a PC the OUT2 pin enables the interrupt; looping back drives it inactive. */
static bool wants_irq(const struct uart16550 *uart)
{
    bool is_gated_on = (uart->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
    return is_gated_on && pending_source(uart) != IIR_NONE;
}

static void update_irq(struct uart16550 *uart)
{
    bool level = wants_irq(uart);
    if (level != uart->irq_level) { /* guests poll: spare the interrupt controllers */
        uart->irq_level = level;
        irq_set(&uart->irq, level);
    }
}

/* Four characters' time: start bit, 5 to 8 data bits, parity, stop bits. */
static uint64_t timeout_ns(const struct uart16550 *uart)
{
    unsigned bits = 1 + 5 + (uart->lcr & 3) + (uart->lcr & LCR_PARITY ? 1 : 0) +
                    (uart->lcr & LCR_STOP ? 2 : 1);
    unsigned divisor = uart->divisor ? uart->divisor : 1;
    return scale_u64(4ull * bits * 16 * divisor, NS_PER_SECOND, CRYSTAL_HZ);
}

/* Every byte that enters or leaves the FIFO starts the time anew. */
static void restart_timeout(struct uart16550 *uart)
{
    uint64_t deadline = TIMER_NEVER;
    if (uart->fcr & FCR_ENABLE && uart->rx_count > 0) {
        deadline = clock_now(timer_queue_clock(uart->timeout.queue)) + timeout_ns(uart);
    }
    uart->timeout_pending = 0;
    if (uart->timeout_deadline != deadline) {
        uart->timeout_deadline = deadline;
        timer_set(&uart->timeout, deadline);
    }
}

static void timeout_expired(void *opaque)
{
    struct uart16550 *uart = opaque;
    uart->timeout_deadline = TIMER_NEVER;
    uart->timeout_pending = uart->rx_count > 0;
    update_irq(uart);
}

static void notify_room(struct uart16550 *uart)
{
    if (uart->is_starved && uart->rx_count == 0 && !(uart->mcr & MCR_LOOP)) {
        uart->is_starved = 0;
        if (uart->sink.room) {
            uart->sink.room(uart->sink.opaque);
        }
    }
}

static void rx_push(struct uart16550 *uart, uint8_t byte)
{
    if (uart->rx_count < fifo_size(uart)) {
        uart->rx[uart->rx_count++] = byte;
    } else {
        uart->overrun = 1;
        if (!(uart->fcr & FCR_ENABLE)) {
            uart->rx[0] = byte; /* RBR is overwritten; a full FIFO is kept */
        }
    }
    restart_timeout(uart);
}

static uint8_t rx_pop(struct uart16550 *uart)
{
    if (uart->rx_count == 0) {
        return 0;
    }
    uint8_t byte = uart->rx[0];
    memmove(uart->rx, uart->rx + 1, --uart->rx_count);
    restart_timeout(uart);
    notify_room(uart);
    return byte;
}

static void rx_clear(struct uart16550 *uart)
{
    uart->rx_count = 0;
    restart_timeout(uart);
    notify_room(uart);
}

/* Hands on what the transmitter holds; when that empties it, its interrupt is due. */
static void tx_drain(struct uart16550 *uart)
{
    if (uart->tx_count == 0) {
        return;
    }
    unsigned taken = uart->sink.write
                         ? uart->sink.write(uart->sink.opaque, uart->tx, uart->tx_count)
                         : uart->tx_count;
    if (taken > uart->tx_count) {
        taken = uart->tx_count;
    }
    uart->tx_count -= (uint8_t)taken;
    memmove(uart->tx, uart->tx + taken, uart->tx_count);
    if (uart->tx_count == 0) {
        uart->thre_pending = 1;
    }
}

static void write_data(struct uart16550 *uart, uint8_t byte)
{
    uart->thre_pending = 0;
    if (uart->mcr & MCR_LOOP) {
        rx_push(uart, byte);
        uart->thre_pending = uart->tx_count == 0;
        return;
    }
    if (uart->tx_count == fifo_size(uart)) {
        uart->tx_count--; /* THR is overwritten */
    }
    uart->tx[uart->tx_count++] = byte;
    tx_drain(uart);
}

/* Enabling the transmitter's interrupt while it is empty raises it, also when it had been
 * raised and read before (drivers probe for parts that fail to). */
static void write_ier(struct uart16550 *uart, uint8_t value)
{
    if (value & ~uart->ier & IER_THRE && uart->tx_count == 0) {
        uart->thre_pending = 1;
    }
    uart->ier = value & IER_MASK;
}

static void write_fcr(struct uart16550 *uart, uint8_t value)
{
    bool toggles = (value ^ uart->fcr) & FCR_ENABLE;
    if (!(value & FCR_ENABLE)) {
        value = 0; /* the other bits are only programmed together with the enable bit */
    }
    uart->fcr = value & FCR_KEPT;
    if (toggles || value & FCR_CLEAR_RX) {
        rx_clear(uart);
    }
    if ((toggles || value & FCR_CLEAR_TX) && uart->tx_count > 0) {
        uart->tx_count = 0;
        uart->thre_pending = 1;
    }
}

static uint8_t modem_lines(const struct uart16550 *uart)
{
    if (!(uart->mcr & MCR_LOOP)) {
        return MSR_CONNECTED;
    }
    return (uart->mcr & MCR_RTS ? MSR_CTS : 0) | (uart->mcr & MCR_DTR ? MSR_DSR : 0) |
           (uart->mcr & MCR_OUT1 ? MSR_RI : 0) | (uart->mcr & MCR_OUT2 ? MSR_DCD : 0);
}

static void write_mcr(struct uart16550 *uart, uint8_t value)
{
    uart->mcr = value & MCR_MASK;
    uint8_t old = uart->msr, lines = modem_lines(uart);
    uint8_t changed = old ^ lines;
    uart->msr = (old & MSR_DELTAS) | lines | (changed & MSR_CTS ? MSR_DELTA_CTS : 0) |
                (changed & MSR_DSR ? MSR_DELTA_DSR : 0) |
                (changed & old & MSR_RI ? MSR_RI_ENDED : 0) |
                (changed & MSR_DCD ? MSR_DELTA_DCD : 0);
    notify_room(uart);
}

static uint8_t read_iir(struct uart16550 *uart)
{
    uint8_t source = pending_source(uart);
    if (source == IIR_THRE) {
        uart->thre_pending = 0;
    }
    return source | (uart->fcr & FCR_ENABLE ? IIR_FIFOS : 0);
}

static uint8_t read_lsr(struct uart16550 *uart)
{
    uint8_t lsr = (uart->rx_count ? LSR_DATA : 0) | (uart->overrun ? LSR_OVERRUN : 0) |
                  (uart->tx_count ? 0 : LSR_THRE | LSR_TEMT);
    uart->overrun = 0;
    return lsr;
}

static uint8_t read_msr(struct uart16550 *uart)
{
    uint8_t msr = uart->msr;
    uart->msr &= ~MSR_DELTAS;
    return msr;
}

static uint8_t read_register(struct uart16550 *uart, uint64_t offset)
{
    bool is_divisor = uart->lcr & LCR_DLAB;
    switch (offset) {
    case REG_DATA:
        return is_divisor ? uart->divisor & 0xff : rx_pop(uart);
    case REG_IER:
        return is_divisor ? uart->divisor >> 8 : uart->ier;
    case REG_IIR:
        return read_iir(uart);
    case REG_LCR:
        return uart->lcr;
    case REG_MCR:
        return uart->mcr;
    case REG_LSR:
        return read_lsr(uart);
    case REG_MSR:
        return read_msr(uart);
    default:
        return uart->scr;
    }
}

static void write_register(struct uart16550 *uart, uint64_t offset, uint8_t value)
{
    bool is_divisor = uart->lcr & LCR_DLAB;
    switch (offset) {
    case REG_DATA:
        if (is_divisor) {
            uart->divisor = (uart->divisor & 0xff00) | value;
        } else {
            write_data(uart, value);
        }
        break;
    case REG_IER:
        if (is_divisor) {
            uart->divisor = (uint16_t)(value << 8) | (uart->divisor & 0xff);
        } else {
            write_ier(uart, value);
        }
        break;
    case REG_IIR:
        write_fcr(uart, value);
        break;
    case REG_LCR:
        uart->lcr = value;
        break;
    case REG_MCR:
        write_mcr(uart, value);
        break;
    case REG_SCR:
        uart->scr = value;
        break;
    default: /* LSR and MSR: writing is for factory tests */
        break;
    }
}

static uint64_t uart_read(struct device *device, uint64_t offset, unsigned size)
{
    struct uart16550 *uart = (struct uart16550 *)device;
    uint8_t value = read_register(uart, offset);
    update_irq(uart);
    return value;
}

static void uart_write(struct device *device, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct uart16550 *uart = (struct uart16550 *)device;
    write_register(uart, offset, (uint8_t)value);
    update_irq(uart);
}

struct region uart16550_region(struct uart16550 *uart, uint64_t base)
{
    return (struct region){.device = &uart->device,
                           .base = base,
                           .size = 8,
                           .min_size = 1,
                           .max_size = 1,
                           .read = uart_read,
                           .write = uart_write};
}

unsigned uart16550_input(struct uart16550 *uart, const uint8_t *data, unsigned size)
{
    pthread_mutex_lock(&uart->device.lock);
    unsigned taken = 0;
    if (!(uart->mcr & MCR_LOOP)) { /* looping back disconnects the receiver's pin */
        while (taken < size && uart->rx_count < fifo_size(uart)) {
            rx_push(uart, data[taken++]);
        }
    }
    if (taken < size) {
        uart->is_starved = 1;
    }
    update_irq(uart);
    pthread_mutex_unlock(&uart->device.lock);
    return taken;
}

void uart16550_ready(struct uart16550 *uart)
{
    pthread_mutex_lock(&uart->device.lock);
    tx_drain(uart);
    update_irq(uart);
    pthread_mutex_unlock(&uart->device.lock);
}

static void uart_reset(struct device *device)
{
    struct uart16550 *uart = (struct uart16550 *)device;
    uart->divisor = 0x0c; /* 9600 baud, as firmware leaves it; the part has no default */
    uart->ier = 0;
    uart->fcr = 0;
    uart->lcr = 3;
    uart->mcr = 0;
    uart->msr = MSR_CONNECTED;
    uart->scr = 0;
    uart->overrun = 0;
    uart->tx_count = 0;
    uart->thre_pending = 0;
    memset(uart->rx, 0, sizeof(uart->rx));
    memset(uart->tx, 0, sizeof(uart->tx));
    rx_clear(uart);
    update_irq(uart);
}

static void uart_loaded(struct device *device)
{
    struct uart16550 *uart = (struct uart16550 *)device;
    uart->fcr &= FCR_KEPT;
    uart->mcr &= MCR_MASK;
    uart->ier &= IER_MASK;
    if (uart->rx_count > fifo_size(uart)) {
        uart->rx_count = (uint8_t)fifo_size(uart);
    }
    if (uart->tx_count > fifo_size(uart)) {
        uart->tx_count = (uint8_t)fifo_size(uart);
    }
    timer_set(&uart->timeout, uart->timeout_deadline);
    uart->irq_level = wants_irq(uart);
    irq_set(&uart->irq, uart->irq_level);
}

static void uart_free(struct device *device)
{
    struct uart16550 *uart = (struct uart16550 *)device;
    timer_fini(&uart->timeout);
    device_fini(device);
    free(uart);
}

static const struct device_field uart_fields[] = {
    DEVICE_FIELD(struct uart16550, timeout_deadline),
    DEVICE_FIELD(struct uart16550, divisor),
    DEVICE_FIELD(struct uart16550, ier),
    DEVICE_FIELD(struct uart16550, fcr),
    DEVICE_FIELD(struct uart16550, lcr),
    DEVICE_FIELD(struct uart16550, mcr),
    DEVICE_FIELD(struct uart16550, msr),
    DEVICE_FIELD(struct uart16550, scr),
    DEVICE_FIELD(struct uart16550, overrun),
    DEVICE_FIELD(struct uart16550, thre_pending),
    DEVICE_FIELD(struct uart16550, timeout_pending),
    DEVICE_FIELD(struct uart16550, rx_count),
    DEVICE_FIELD(struct uart16550, tx_count),
    DEVICE_FIELD_ARRAY(struct uart16550, rx),
    DEVICE_FIELD_ARRAY(struct uart16550, tx),
    DEVICE_FIELD_END,
};

static const struct device_type uart_type = {
    .name = "uart16550",
    .fields = uart_fields,
    .reset = uart_reset,
    .loaded = uart_loaded,
    .free = uart_free,
};

struct uart16550 *uart16550_new(const char *name, struct timer_queue *timers,
                                struct irq_line irq, const struct uart16550_sink *sink,
                                struct error *err)
{
    struct uart16550 *uart = calloc(1, sizeof(*uart));
    if (!uart) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&uart->device, &uart_type, name);
    uart->irq = irq;
    uart->sink = *sink;
    timer_init(&uart->timeout, timers, &uart->device.lock, timeout_expired, uart);
    uart->timeout_deadline = TIMER_NEVER;
    uart_reset(&uart->device);
    return uart;
}

struct device *uart16550_device(struct uart16550 *uart)
{
    return &uart->device;
}
