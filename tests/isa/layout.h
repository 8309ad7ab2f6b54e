#pragma once
/* Where cases are, and how large. For the assembler, too, which knows no type suffixes.
 */

#define ISA_PAGE  4096
#define ISA_CODE  0x10000000 /* two pages to execute, one to write as well */
#define ISA_DATA  0x20000000 /* two pages, read and write; the third only read */
#define ISA_STACK 0x30000000 /* one page, read and write */

/* Limit and bases of the segments of 16-bit code: a page before what is mapped, or so
 * that what can be written ends with them. */
#define ISA_LIMIT16      0xffff
#define ISA_DATA16_BASE  (ISA_DATA - ISA_PAGE)
#define ISA_STACK16_BASE (ISA_STACK - ISA_PAGE)
#define ISA_DATA16_TOP   (ISA_DATA + 2 * ISA_PAGE - 1 - ISA_LIMIT16)
#define ISA_STACK16_TOP  (ISA_STACK + ISA_PAGE - 1 - ISA_LIMIT16)
/* The upper half of ESP there: that of the monitor's stack pointer (monitor.h), which
 * IRETQ leaves in it. The host's kernel hides its own. */
#define ISA_STACK16_HIGH 0x80010000

#define ISA_FIXED_CODE   2 /* pages of code that cannot be written */
#define ISA_CODE_PAGES   3
#define ISA_DATA_PAGES   3

/* What a case can change, in this order: the page of code, data, stack. */
#define ISA_MEMORY_PAGES (1 + ISA_DATA_PAGES + 1)
#define ISA_MEMORY_SIZE  (ISA_MEMORY_PAGES * ISA_PAGE)
/* The pages of both sides: the fixed code, then the memory. */
#define ISA_PAGES         (ISA_FIXED_CODE + ISA_MEMORY_PAGES)

#define ISA_CODE_MAX      640 /* bytes of a case */
#define ISA_IMAGE_COUNT   8   /* different contents of memory to start with */
#define ISA_BATCH         64  /* cases in one go */

#define ISA_END_EXCEPTION 1
