/* Set-up, printing and the end. */
#include <stdarg.h>

#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define SERIAL       0x3f8
#define SERIAL_LSR   (SERIAL + 5)
#define DEBUG_EXIT   0xf4
#define COMMAND_LINE 0x228 /* cmd_line_ptr in struct boot_params */

extern uint64_t boot_params;
void guest_main(void);

static unsigned case_number;
static char case_name[120];
static const char *case_reason; /* why the case is skipped; NULL: it is not */
static uint32_t print_lock;

/* Nothing here may call a library, so the compiler must not make these call themselves.
 */
void *memset(void *to, int value, size_t size)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
    return start;
}

void *memcpy(void *to, const void *from, size_t size)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
    return start;
}

int memcmp(const void *a, const void *b, size_t size)
{
    const uint8_t *left = a, *right = b;
    for (size_t i = 0; i < size; i++) {
        if (left[i] != right[i]) {
            return left[i] - right[i];
        }
    }
    return 0;
}

/* Characters go to the serial port, or to a buffer. */
struct sink {
    char *next, *end;
};

static void put(struct sink *sink, char c)
{
    if (sink->next) {
        if (sink->next < sink->end) {
            *sink->next++ = c;
        }
        return;
    }
    while (!(port_read8(SERIAL_LSR) & 0x20)) {
        pause();
    }
    port_write8(SERIAL, (uint8_t)c);
}

static void put_number(struct sink *sink, uint64_t value, unsigned base, int width,
                       char padding)
{
    char digits[24];
    int count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    for (int i = count; i < width; i++) {
        put(sink, padding);
    }
    while (count) {
        put(sink, digits[--count]);
    }
}

static void format_to(struct sink *sink, const char *format, va_list arguments)
{
    for (; *format; format++) {
        if (*format != '%') {
            put(sink, *format);
            continue;
        }
        char padding = *++format == '0' ? '0' : ' ';
        int width = 0;
        bool is_long = false;
        for (; *format >= '0' && *format <= '9'; format++) {
            width = width * 10 + *format - '0';
        }
        for (; *format == 'l'; format++) {
            is_long = true;
        }
        switch (*format) {
        case 's':
            for (const char *s = va_arg(arguments, const char *); *s; s++) {
                put(sink, *s);
            }
            break;
        case 'c':
            put(sink, (char)va_arg(arguments, int));
            break;
        case 'd': {
            int64_t value = is_long ? va_arg(arguments, int64_t) : va_arg(arguments, int);
            if (value < 0) {
                put(sink, '-');
            }
            put_number(sink, value < 0 ? -(uint64_t)value : (uint64_t)value, 10, width,
                       padding);
            break;
        }
        case 'p':
            is_long = true;
            __attribute__((fallthrough));
        case 'x':
        case 'u':
            put_number(
                sink, is_long ? va_arg(arguments, uint64_t) : va_arg(arguments, unsigned),
                *format == 'u' ? 10 : 16, width, padding);
            break;
        default:
            put(sink, *format);
        }
    }
}

void print_va(const char *format, va_list arguments)
{
    struct sink serial = {0};
    while (__atomic_exchange_n(&print_lock, 1, __ATOMIC_ACQUIRE)) {
        pause();
    }
    format_to(&serial, format, arguments);
    __atomic_store_n(&print_lock, 0, __ATOMIC_RELEASE);
}

void print(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_va(format, arguments);
    va_end(arguments);
}

static const char *command_line(void)
{
    return (const char *)(uint64_t) * (uint32_t *)(boot_params + COMMAND_LINE);
}

uint64_t guest_number(uint64_t otherwise)
{
    uint64_t value = 0;
    const char *text = command_line();
    if (!text || *text < '0' || *text > '9') {
        return otherwise;
    }
    for (; *text >= '0' && *text <= '9'; text++) {
        value = value * 10 + (uint64_t)(*text - '0');
    }
    return value;
}

bool guest_option(const char *text)
{
    for (const char *at = command_line(); at && *at; at++) {
        size_t length = 0;
        while (text[length] && at[length] == text[length]) {
            length++;
        }
        if (!text[length]) {
            return true;
        }
    }
    return false;
}

static void case_passed(void)
{
    if (case_number) {
        print("ok %u - %s%s%s\n", case_number, case_name, case_reason ? " # SKIP " : "",
              case_reason ? case_reason : "");
    }
    case_reason = NULL;
}

void case_skip(const char *reason)
{
    case_reason = reason;
}

void case_begin(const char *format, ...)
{
    struct sink name = {case_name, case_name + sizeof(case_name) - 1};
    va_list arguments;

    case_passed();
    case_number++;
    va_start(arguments, format);
    format_to(&name, format, arguments);
    va_end(arguments);
    *name.next = 0;
}

_Noreturn void guest_exit(uint8_t code)
{
    while (true) {
        port_write8(DEBUG_EXIT, code);
    }
}

_Noreturn void fail_at(const char *file, int line, const char *format, ...)
{
    va_list arguments;

    print("not ok %u - %s\n# %s:%d: ", case_number, case_name, file, line);
    va_start(arguments, format);
    print_va(format, arguments);
    va_end(arguments);
    print("\n");
    guest_exit(1);
}

_Noreturn void guest_skip(const char *reason)
{
    print("1..0 # SKIP %s\n", reason);
    guest_exit(0);
}

void guest_main(void)
{
    page_setup();
    trap_setup(0);
    cpus[0].alive = 1;
    guest_test();
    case_passed();
    print("1..%u\n", case_number);
    guest_exit(0);
}
