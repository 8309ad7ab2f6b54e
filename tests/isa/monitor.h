#pragma once
/* What the guest's monitor (monitor.S) and the code that sets it up (guest.c) agree on.
 * For the assembler, too; guest.c asserts that the offsets are the compiler's. */

#include "layout.h"

/* Guest-physical addresses; ring 0 sees them from KERNEL on. */
#define KERNEL          0xffffffff80000000
#define PAGE_TABLES     0x1000
#define GDT             0x10000
#define LDT             0x10800
#define IDT             0x11000
#define TSS             0x12000
#define KERNEL_STACK    0x14000 /* its top */
#define CONTROL         0x15000
#define MONITOR         0x16000
#define PAGES           0x20000
#define IMAGES          0x40000
#define INPUTS          0x80000
#define RESULTS         0x100000
#define MEMORIES        0x200000
#define RAM             0x400000

#define SELECTOR_KERNEL 0x10
#define SELECTOR_TSS    0x40
#define SELECTOR_LDT    0x50 /* of no descriptor: nobody loads it again */

/* struct control */
#define CONTROL_CURRENT 0
#define CONTROL_COUNT   8
#define CONTROL_INPUT   16
#define CONTROL_RESULT  24
#define CONTROL_MEMORY  32
#define CONTROL_CODE    40
#define CONTROL_LENGTH  48

/* struct isa_input */
#define INPUT_SIZE     1664
#define INPUT_RIP      832
#define INPUT_FLAGS    840
#define INPUT_SELECTOR 848
#define INPUT_DATA     850
#define INPUT_STACK    852
#define INPUT_GPR      856
#define INPUT_IMAGE    1006
#define INPUT_STEPPED  1007
#define INPUT_LENGTH   1008
#define INPUT_OFFSET   1010
#define INPUT_CODE     1012

/* struct isa_result */
#define RESULT_SIZE      1024
#define RESULT_GPR       832
#define RESULT_RIP       960
#define RESULT_FLAGS     968
#define RESULT_ADDRESS   976
#define RESULT_FS_BASE   984
#define RESULT_GS_BASE   992
#define RESULT_END       1000
#define RESULT_EXCEPTION 1004
#define RESULT_ERROR     1008
#define RESULT_SELECTOR  1012
