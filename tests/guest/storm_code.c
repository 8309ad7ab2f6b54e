/* Random code of kernels and programs, and the values that it works on. */
#include "storm.h"

#include "cpu.h"
#include "page.h"
#include "trap.h"

#define LITERALS    0x1c00u /* behind the code: far pointers */
#define USER_ALIAS  0x2000u /* of the code */
#define MSR_TSC_AUX 0xc0000103u

uint64_t storm_seed;
static uint8_t *code; /* by its frame */
static unsigned at, literal, pad;
static unsigned origin; /* where the code begins: often it lies in two pages */
static bool is_32[PADS];

uint64_t storm_next(void)
{
    uint64_t z = storm_seed += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

uint64_t storm_pick(uint64_t count)
{
    return storm_next() % count;
}

/* ---- Values ---- */

static uint64_t address(void)
{
    static const uint16_t offsets[] = {0, 1, 8, 0x40, 0x7f8, 0xff0, 0xff8, 0xffc, 0xfff};
    uint64_t page =
        storm_pick(4) ? DATA_PAGE + storm_pick(PAGES - DATA_PAGE) : storm_pick(PAGES);
    return AREA + page * PAGE_SIZE +
           (storm_pick(3) ? PICK(offsets) : storm_pick(PAGE_SIZE));
}

static uint16_t selector(void)
{
    static const uint16_t usual[] = {0,           KERNEL_CS, KERNEL_DS,
                                     USER_CS32,   USER_DS,   USER_CS64,
                                     KERNEL_CS32, TSS_BASE,  LDT_SLOT * 8};
    uint16_t value = storm_pick(2) ? PICK(usual) : (uint16_t)(storm_pick(SLOTS + 2) * 8);
    if (!storm_pick(3)) {
        value = (uint16_t)((value & ~3u) | storm_pick(4));
    }
    return storm_pick(12) ? value : value | 4;
}

uint64_t storm_value(void)
{
    switch (storm_pick(8)) {
    case 0:
        return storm_pick(16);
    case 1:
        return 1ull << storm_pick(64);
    case 2:
        return storm_next();
    case 3:
        return 0x7ffffffffffeull + storm_pick(4);
    case 4:
        return selector();
    case 5:
        return 0xffff800000000000ull + storm_pick(2);
    default:
        return address();
    }
}

static uint64_t flags(void)
{
    uint64_t bits = (storm_next() & 0xcd5) | RFLAGS_FIXED;
    bits |= storm_pick(4) ? 0 : RFLAGS_TF;
    bits |= storm_pick(2) ? 0 : RFLAGS_IF;
    bits |= storm_pick(4) ? 0 : RFLAGS_IOPL & storm_next();
    bits |= storm_pick(8) ? 0 : RFLAGS_NT;
    bits |= storm_pick(4) ? 0 : RFLAGS_AC;
    bits |= storm_pick(8) ? 0 : RFLAGS_RF;
    return bits;
}

/* ---- Code ---- */

static void put(uint8_t byte)
{
    if (at < origin + (pad + 1) * PAD_SIZE - 2) {
        code[at++] = byte;
    }
}

static void put_bytes(const void *bytes, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        put(((const uint8_t *)bytes)[i]);
    }
}

#define PUT(...) \
    put_bytes((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* MOV register, value: as wide as the code's registers are. */
static void set(unsigned reg, uint64_t number)
{
    if (is_32[pad]) {
        put(0xb8 | (reg & 7));
        put_bytes(&number, 4);
        return;
    }
    PUT(0x48 | reg >> 3, 0xb8 | (reg & 7));
    put_bytes(&number, 8);
}

static void wide(void)
{
    if (!is_32[pad]) {
        put(0x48);
    }
}

static void push_number(uint64_t number)
{
    set(0, number);
    put(0x50);
}

static unsigned later_pad(void)
{
    return pad + 1 < PADS ? pad + 1 + (unsigned)storm_pick(PADS - pad - 1) : PADS - 1;
}

uint64_t storm_pad_address(unsigned which, bool is_user)
{
    return AREA + origin + which * PAD_SIZE + (is_user ? USER_ALIAS : 0);
}

static void control_register(void)
{
    static const uint64_t cr4_bits[] = {
        1 << 0,    1 << 1,  CR4_TSD,  1 << 3,   1 << 4,  1 << 6,  CR4_PGE,
        1 << 8,    1 << 9,  1 << 10,  CR4_UMIP, 1 << 12, 1 << 13, CR4_FSGSBASE,
        CR4_PCIDE, 1 << 18, CR4_SMEP, CR4_SMAP, 1 << 22, 1 << 23, 1ull << 32};
    static const uint64_t cr0_bits[] = {CR0_MP,  CR0_EM,  CR0_TS,    1 << 4,
                                        1 << 5,  CR0_WP,  CR0_AM,    1 << 6,
                                        1 << 29, 1 << 30, 1ull << 32};
    uint64_t number = storm_base.cr0;
    switch (storm_pick(6)) {
    case 0:
        for (unsigned i = storm_pick(4) + 1; i > 0; i--) {
            number ^= PICK(cr0_bits);
        }
        set(0, number);
        PUT(0x0f, 0x22, 0xc0);
        break;
    case 1:
    case 2:
        number = storm_base.cr4;
        for (unsigned i = storm_pick(3) + 1; i > 0; i--) {
            number ^= PICK(cr4_bits);
        }
        set(1, number);
        PUT(0x0f, 0x22, 0xe1);
        break;
    case 3:
        set(2, storm_base.cr3 | (storm_pick(2) ? storm_pick(8) : 0) |
                   (storm_pick(3) ? 0 : 1ull << 63) | (storm_pick(9) ? 0 : 1ull << 51));
        PUT(0x0f, 0x22, 0xda);
        break;
    case 4:
        PUT(0x0f, 0x20,
            0xc0 | (uint8_t)(PICK(((const uint8_t[]){0, 2, 3, 4})) << 3 | storm_pick(4)));
        break;
    default:
        set(0, storm_pick(18));
        PUT(0x0f, storm_pick(2) ? 0x06 : 0x01, 0xf0); /* clts or lmsw ax */
        break;
    }
}

static void debug_register(void)
{
    unsigned number = (unsigned)storm_pick(8);
    uint64_t content =
        storm_pick(2) ? address()
                      : storm_pad_address((unsigned)storm_pick(PADS), storm_pick(2)) +
                            storm_pick(16);
    if (number >= 4) {
        content = storm_pick(5) ? storm_next() & 0xffff23ff : storm_next();
        content |= number & 1 ? 0xff & storm_next() : 0;
    }
    set(3, content);
    PUT(0x0f, storm_pick(4) ? 0x23 : 0x21, 0xc3 | (uint8_t)(number << 3));
}

static void model_register(void)
{
    static const uint32_t numbers[] = {
        MSR_FS_BASE,    MSR_GS_BASE, MSR_KERNEL_GS, MSR_SYSENTER_CS, MSR_SYSENTER_SP,
        MSR_EFER,       0x1d9,       0x277,         MSR_TSC_AUX,     0x1a0,
        MSR_FMASK,      MSR_STAR,    MSR_APIC_BASE, 0x200,           0x201,
        0x250,          0x2ff,       0x17a,         0x123456,        0x808,
        MSR_TSC_ADJUST, 0xfe,        0x10,          0xda0,           0x48};
    uint32_t number = PICK(numbers);
    bool is_write = storm_pick(3);
    uint64_t content = storm_value();
    if (number == MSR_EFER) {
        content = storm_base.efer ^ (storm_pick(2) ? EFER_SCE : 1ull << storm_pick(16));
        content |= EFER_NXE; /* the tables need it */
    }
    if (number == 0x1d9) {
        content = storm_pick(8) ? storm_pick(4) : content;
    } else if (number == MSR_SYSENTER_CS || number == MSR_TSC_AUX) {
        content = storm_pick(4) ? selector() : content;
    } else if (number == MSR_FMASK) {
        content = flags();
    } else if (number == MSR_STAR) {
        content = (uint64_t)selector() << 48 | (uint64_t)selector() << 32;
    } else if (number == 0x277) {
        content = storm_next() & 0x0707070707070707;
    }
    /* Whose new values would outlast the case. */
    bool is_ours = number == MSR_APIC_BASE || number == 0x10 ||
                   number == MSR_TSC_ADJUST || number == 0x1a0;
    set(1, number);
    set(0, (uint32_t)content);
    set(2, content >> 32);
    PUT(0x0f, is_write && !is_ours ? 0x30 : 0x32);
}

static void base_register(void)
{
    set(0, storm_value());
    if (is_32[pad]) {
        put(0x90);
    } else if (storm_pick(3)) {
        PUT(0xf3, 0x48, 0x0f, 0xae, 0xc0 | (uint8_t)(storm_pick(4) << 3));
    } else {
        PUT(0x0f, 0x01, 0xf8); /* swapgs */
    }
}

static void segment_register(void)
{
    static const uint8_t loads[] = {0, 2, 3, 4, 5, 1};
    set(0, selector());
    if (storm_pick(4)) {
        PUT(0x8e, 0xc0 | (uint8_t)(PICK(loads) << 3));
    } else {
        put(0x50);
        PUT(0x0f, storm_pick(2) ? 0xa1 : 0xa9); /* pop fs, gs */
    }
}

static void inspect(void)
{
    set(1, selector());
    switch (storm_pick(3)) {
    case 0:
        wide();
        PUT(0x0f, 0x02 | (uint8_t)storm_pick(2), 0xd1); /* lar, lsl edx, ecx */
        break;
    case 1:
        PUT(0x0f, 0x00, 0xe1 | (uint8_t)(storm_pick(2) << 3)); /* verr, verw cx */
        break;
    default:
        PUT(0x0f, 0x00, 0xc2 | (uint8_t)(storm_pick(2) << 3)); /* sldt, str edx */
        break;
    }
}

static void load_system_segment(void)
{
    set(1, selector());
    PUT(0x0f, 0x00, storm_pick(4) ? 0xd1 : 0xd9); /* lldt, ltr cx */
}

/* The same GDT or IDT again, or one that is nowhere. */
static void tables(void)
{
    bool is_idt = storm_pick(2);
    set(3, address() & ~7ull);
    if (storm_pick(2) || is_32[pad]) {
        PUT(0x0f, 0x01, 0x03 | (uint8_t)(is_idt << 3)); /* sgdt, sidt [rbx] */
        return;
    }
    uint64_t base = is_idt ? (uint64_t)idt : (uint64_t)storm_table;
    uint16_t limit = is_idt ? 256 * sizeof(idt[0]) - 1 : sizeof(storm_table) - 1;
    base |= storm_pick(4) ? 0 : 1ull << 47;
    memcpy(code + LITERALS + literal, &limit, 2);
    memcpy(code + LITERALS + literal + 2, &base, 8);
    set(3, AREA + LITERALS + literal + (storm_pick(2) ? USER_ALIAS : 0));
    literal = (literal + 16) % 0x400;
    PUT(0x0f, 0x01, 0x13 | (uint8_t)(is_idt << 3)); /* lgdt, lidt [rbx] */
}

static void set_flags(void)
{
    push_number(flags());
    put(0x9d);
    if (!storm_pick(3)) {
        put(0x9c); /* and back */
        put(0x58);
    }
}

static void small(void)
{
    static const uint8_t codes[][5] = {
        {1, 0xfa},             /* cli */
        {1, 0xfb},             /* sti */
        {2, 0xfb, 0x90},       /* sti; nop */
        {3, 0x0f, 0x01, 0xca}, /* clac */
        {3, 0x0f, 0x01, 0xcb}, /* stac */
        {2, 0x0f, 0x09},       /* wbinvd */
        {2, 0x0f, 0x31},       /* rdtsc */
        {3, 0x0f, 0x01, 0xf9}, /* rdtscp */
        {2, 0x0f, 0x33},       /* rdpmc */
        {3, 0x0f, 0x01, 0xe0}, /* smsw eax */
        {2, 0xdb, 0xe3},       /* fninit */
        {3, 0x0f, 0x57, 0xc1}, /* xorps xmm0, xmm1 */
        {3, 0x0f, 0xfc, 0xc1}, /* paddb mm0, mm1 */
        {1, 0x9b},             /* fwait */
        {3, 0x0f, 0x01, 0xee}, /* rdpkru */
        {1, 0xcc},             /* int3 */
        {1, 0xf1},             /* int1 */
        {2, 0xcd, 0x80},       /* int 0x80 */
        {2, 0xcd, 0x20},       /* int 0x20 */
        {2, 0x0f, 0xa2},       /* cpuid */
        {2, 0x31, 0xc9},       /* xor ecx, ecx */
        {3, 0x0f, 0x01, 0xd0}, /* xgetbv */
        {3, 0x0f, 0x01, 0xc1}, /* vmcall */
    };
    const uint8_t *chosen = PICK(codes);
    put_bytes(chosen + 1, chosen[0]);
}

static void translations(void)
{
    set(3, address());
    if (storm_pick(2) || is_32[pad]) {
        PUT(0x0f, 0x01, 0x3b); /* invlpg [rbx] */
        return;
    }
    set(1, storm_pick(5));
    set(3, AREA + DATA_PAGE * PAGE_SIZE + 0x100);
    PUT(0x66, 0x0f, 0x38, 0x82, 0x0b); /* invpcid rcx, [rbx] */
}

/* Accessed by what a kernel or its program uses, at any place. */
static void access(void)
{
    static const uint8_t codes[][6] = {
        {2, 0x8b, 0x03},             /* mov eax, [rbx] */
        {2, 0x89, 0x03},             /* mov [rbx], eax */
        {2, 0x01, 0x03},             /* add [rbx], eax */
        {2, 0x87, 0x03},             /* xchg [rbx], eax */
        {4, 0xf0, 0x0f, 0xb1, 0x0b}, /* lock cmpxchg [rbx], ecx */
        {2, 0xff, 0x33},             /* push [rbx] */
        {2, 0x8f, 0x03},             /* pop [rbx] */
        {3, 0x0f, 0xae, 0x03},       /* fxsave [rbx] */
        {3, 0x0f, 0xae, 0x0b},       /* fxrstor [rbx] */
        {3, 0x0f, 0xae, 0x23},       /* xsave [rbx] */
        {3, 0x0f, 0xae, 0x2b},       /* xrstor [rbx] */
        {3, 0x0f, 0x10, 0x03},       /* movups xmm0, [rbx] */
        {3, 0x0f, 0x29, 0x03},       /* movaps [rbx], xmm0 */
        {3, 0x0f, 0x7f, 0x03},       /* movq [rbx], mm0 */
        {2, 0xdd, 0x1b},             /* fstp qword [rbx] */
        {3, 0x0f, 0xab, 0x03},       /* bts [rbx], eax */
        {3, 0x0f, 0x01, 0x33},       /* lmsw [rbx] */
        {3, 0x0f, 0x00, 0x13},       /* lldt [rbx] */
        {2, 0x8e, 0x1b},             /* mov ds, [rbx] */
        {2, 0x8e, 0x13},             /* mov ss, [rbx] */
        {3, 0x0f, 0xae, 0x3b},       /* clflush [rbx] */
        {2, 0xd7, 0x90},             /* xlat */
        {3, 0x0f, 0xc7, 0x0b},       /* cmpxchg8b [rbx] */
        {4, 0x48, 0x0f, 0xc7, 0x0b}, /* cmpxchg16b [rbx] */
        {3, 0x0f, 0xae, 0x13},       /* ldmxcsr [rbx] */
        {3, 0x0f, 0xae, 0x1b},       /* stmxcsr [rbx] */
        {2, 0xd9, 0x33},             /* fnstenv [rbx] */
        {2, 0xd9, 0x23},             /* fldenv [rbx] */
        {2, 0xdd, 0x33},             /* fnsave [rbx] */
        {2, 0xdd, 0x23},             /* frstor [rbx] */
        {2, 0xdb, 0x2b},             /* fld tbyte [rbx] */
        {2, 0xdb, 0x3b},             /* fstp tbyte [rbx] */
        {4, 0xc5, 0xfc, 0x10, 0x03}, /* vmovups ymm0, [rbx] */
        {4, 0xc5, 0xfc, 0x29, 0x03}, /* vmovaps [rbx], ymm0 */
        {4, 0xc5, 0xf8, 0x58, 0x03}, /* vaddps xmm0, xmm0, [rbx] */
        {4, 0x0f, 0x58, 0x03, 0x90}, /* addps xmm0, [rbx] */
        {3, 0x0f, 0xe7, 0x03},       /* movntq [rbx], mm0 */
        {4, 0x0f, 0x38, 0xf1, 0x03}, /* movbe [rbx], eax */
        {1, 0xc9},                   /* leave */
        {4, 0xc8, 0x10, 0x00, 0x01}, /* enter 16, 1 */
        {3, 0x0f, 0xae, 0x33},       /* xsaveopt [rbx] */
        {3, 0x0f, 0xc7, 0x23},       /* xsavec [rbx] */
    };
    const uint8_t *chosen = PICK(codes);
    set(3, address());
    if (!storm_pick(6)) {
        put(storm_pick(2) ? 0x64 : 0x65);
    }
    put_bytes(chosen + 1, chosen[0]);
}

static void strings(void)
{
    static const uint8_t codes[] = {0xa4, 0xa5, 0xaa, 0xab, 0xac, 0xa6, 0xae, 0x6c, 0x6e};
    set(6, address());
    set(7, address());
    set(1, storm_pick(12));
    set(2, PICK(((const uint16_t[]){0x80, 0xed, 0x61})));
    PUT(0xf3, PICK(codes));
}

static void port(void)
{
    set(2, PICK(((const uint16_t[]){0x80, 0xed, 0x81, 0xff})));
    PUT(PICK(((const uint8_t[]){0xec, 0xed, 0xee, 0xef})));
}

/* Rights of a page change, and the translation is invalidated or not at all used again.
 */
static void page_entry_change(void)
{
    uint64_t page =
        storm_pick(4) ? DATA_PAGE + storm_pick(PAGES - DATA_PAGE) : storm_pick(DATA_PAGE);
    uint64_t *entry = page_entry(kernel_pml4, AREA + page * PAGE_SIZE, 1);
    uint64_t bits = PICK(((const uint64_t[]){PTE_P, PTE_W, PTE_U, PTE_A, PTE_D, PTE_G,
                                             PTE_NX, 1ull << 59, 1ull << 50}));
    if (is_32[pad]) {
        return;
    }
    set(3, (uint64_t)entry);
    set(0, *entry ^ bits);
    PUT(0x48, 0x89, 0x03);
    set(3, AREA + page * PAGE_SIZE);
    PUT(0x0f, 0x01, 0x3b);
}

static void keys(void)
{
    set(0, storm_next() & 0xff);
    set(1, storm_pick(8) ? 0 : 1);
    set(2, storm_pick(8) ? 0 : 1);
    PUT(0x0f, 0x01, storm_pick(4) ? 0xef : 0xd1); /* wrpkru, xsetbv */
}

/* A far pointer among the literals; its address. */
static uint64_t far_pointer(uint16_t to, unsigned which)
{
    uint64_t offset = storm_pad_address(which, to & 3);
    uint8_t *place = code + LITERALS + literal;
    memcpy(place, &offset, 4);
    memcpy(place + 4, &to, 2);
    uint64_t result = AREA + LITERALS + literal + (storm_pick(2) ? USER_ALIAS : 0);
    literal = (literal + 16) % 0x400;
    return result;
}

static uint16_t code_selector(unsigned which)
{
    if (!storm_pick(4)) {
        return selector();
    }
    bool is_user = storm_pick(2);
    return is_32[which] ? (is_user ? USER_CS32 : KERNEL_CS32)
                        : (is_user ? USER_CS64 : KERNEL_CS);
}

static void far_transfer(void)
{
    unsigned which = later_pad();
    uint16_t to = code_selector(which);
    switch (storm_pick(4)) {
    case 0:
        set(3, far_pointer(to, which));
        PUT(0xff, 0x2b); /* jmp far [rbx] */
        break;
    case 1:
        set(3, far_pointer(to, which));
        PUT(0xff, 0x1b); /* call far [rbx] */
        break;
    default:
        push_number(selector());
        push_number(AREA + (DATA_PAGE + 1) * PAGE_SIZE + 0x800);
        push_number(to);
        push_number(storm_pad_address(which, to & 3));
        wide();
        put(0xcb); /* retf */
        break;
    }
}

static void interrupt_return(void)
{
    unsigned which = later_pad();
    uint16_t to = code_selector(which);
    push_number(storm_pick(6) ? (to & 3 ? USER_DS : KERNEL_DS) : selector());
    push_number(AREA + (DATA_PAGE + storm_pick(2)) * PAGE_SIZE + 0x800 +
                storm_pick(2) * 4);
    push_number(flags());
    push_number(to);
    push_number(storm_pad_address(which, to & 3) | (storm_pick(20) ? 0 : 1ull << 63));
    wide();
    put(0xcf);
}

static void system_call(void)
{
    unsigned which = later_pad();
    switch (storm_pick(4)) {
    case 0:
        PUT(0x0f, 0x05); /* syscall */
        break;
    case 1:
        PUT(0x0f, 0x34); /* sysenter */
        break;
    case 2:
        set(1, storm_pad_address(which, true) | (storm_pick(12) ? 0 : 1ull << 47));
        set(11, flags());
        if (!is_32[which]) {
            wide();
        }
        PUT(0x0f, 0x07); /* sysret */
        break;
    default:
        set(2, storm_pad_address(which, true));
        set(1, AREA + (DATA_PAGE + 1) * PAGE_SIZE + 0x800);
        if (!is_32[which]) {
            wide();
        }
        PUT(0x0f, 0x35); /* sysexit */
        break;
    }
}

static void loop(void)
{
    set(1, 1 + storm_pick(6));
    unsigned begin = at;
    PUT(0xff, 0xc0 | (uint8_t)(storm_pick(2) << 3)); /* inc, dec eax */
    if (storm_pick(2)) {
        access();
    }
    if (at - begin < 0x60) {
        PUT(0xe2, (uint8_t)(begin - at - 2));
    }
}

/* To a later pad, or to where no code can be. */
static void indirect(void)
{
    uint64_t to = storm_pad_address(later_pad(), !storm_pick(4));
    set(0, storm_pick(3) ? to : to | 1ull << 47);
    if (storm_pick(3)) {
        PUT(0xff, storm_pick(2) ? 0xd0 : 0xe0); /* call, jmp rax */
    } else {
        PUT(0x50, 0xc3); /* push rax; ret */
    }
}

/* The code of a pad that comes later is changed. */
static void modify(void)
{
    unsigned which = later_pad();
    set(3, storm_pad_address(which, false) + storm_pick(PAD_SIZE / 4));
    PUT(0xc6, 0x03, PICK(((const uint8_t[]){0x90, 0xcc, 0x50, 0xf4 ^ 0xff})));
}

static void make_pad(void)
{
    static void (*const kinds[])(void) = {control_register,
                                          debug_register,
                                          model_register,
                                          base_register,
                                          segment_register,
                                          inspect,
                                          load_system_segment,
                                          tables,
                                          set_flags,
                                          small,
                                          small,
                                          translations,
                                          access,
                                          access,
                                          access,
                                          strings,
                                          port,
                                          page_entry_change,
                                          keys,
                                          far_transfer,
                                          far_transfer,
                                          interrupt_return,
                                          interrupt_return,
                                          system_call,
                                          loop,
                                          modify,
                                          indirect};
    at = origin + pad * PAD_SIZE;
    for (unsigned count = 1 + (unsigned)storm_pick(8); count > 0; count--) {
        PICK(kinds)();
    }
    code[at] = 0x0f;
    code[at + 1] = 0x0b;
}

void storm_make_code(uint8_t *to)
{
    code = to;
    for (unsigned i = 1; i < PADS; i++) {
        is_32[i] = i < PADS - 1 && !storm_pick(3);
    }
    memset(code, 0x0b, 2 * PAGE_SIZE);
    literal = 0;
    origin = storm_pick(2) ? 0 : PAGE_SIZE - 1 - (unsigned)storm_pick(PADS * PAD_SIZE);
    for (pad = 0; pad < PADS; pad++) {
        make_pad();
    }
    at = origin + (PADS - 1) * PAD_SIZE;
    code[at] = 0x0f;
    code[at + 1] = 0x0b;
}
