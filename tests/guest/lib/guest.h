/*
 * What every guest test uses: printing, cases and assertions. A program is one subject;
 * it defines guest_test(), which runs cases one after another. The output is TAP on the
 * first serial port; the first failed assertion ends the VM with status 3.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The program's own part; runs on the bootstrap processor with interrupts disabled. */
void guest_test(void);

/* %s %c %d %u %x %lx %lu and %p; width and zero padding as in C. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void print_va(const char *format, __builtin_va_list arguments);

/* The number that the command line is; `otherwise` if it does not begin with one. */
uint64_t guest_number(uint64_t otherwise);

/* Does the command line hold this text? */
bool guest_option(const char *text);

/* Begins a case; the one before it has passed. */
void case_begin(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What the case asks for cannot be had here: it counts as skipped, if it does not fail.
 */
void case_skip(const char *reason);

/* Ends the VM as failed. The message says what was expected. */
_Noreturn void fail_at(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Ends the VM by the debug-exit port: status is (code << 1) | 1. */
_Noreturn void guest_exit(uint8_t code);

/* Skips the whole program, before its first case. */
_Noreturn void guest_skip(const char *reason);

#define FAIL(...) fail_at(__FILE__, __LINE__, __VA_ARGS__)

#define ASSERT(condition)                                \
    do {                                                 \
        if (!(condition)) {                              \
            FAIL("expected to be true: %s", #condition); \
        }                                                \
    } while (0)

#define ASSERT_EQ(actual, expected)                                                \
    do {                                                                           \
        uint64_t actual_ = (uint64_t)(actual), expected_ = (uint64_t)(expected);   \
        if (actual_ != expected_) {                                                \
            FAIL("%s: expected 0x%lx, actual 0x%lx", #actual, expected_, actual_); \
        }                                                                          \
    } while (0)

#define ASSERT_BETWEEN(actual, low, high)                                               \
    do {                                                                                \
        uint64_t actual_ = (uint64_t)(actual), low_ = (uint64_t)(low);                  \
        uint64_t high_ = (uint64_t)(high);                                              \
        if (actual_ < low_ || actual_ > high_) {                                        \
            FAIL("%s: expected %lu to %lu, actual %lu", #actual, low_, high_, actual_); \
        }                                                                               \
    } while (0)

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

void *memset(void *to, int value, size_t size);
void *memcpy(void *to, const void *from, size_t size);
int memcmp(const void *a, const void *b, size_t size);
