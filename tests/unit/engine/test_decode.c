/* Kinds of instructions that the translator remembers: what it recalls of one is what it
 * works out anew. */

#include "decode_rig.h"

#include <sys/mman.h>

#define ROUNDS 20000u

static uint32_t next(struct rig *rig)
{
    rig->seed = rig->seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(rig->seed >> 33);
}

/* A decoder that knows nothing: what is decoded by it was remembered. */
static bool recall(struct rig *rig, const uint8_t bytes[INSN_BYTES_MAX], unsigned offset,
                   struct guest_insn *insn)
{
    ZydisDecoder decoder = rig->cache->decoder, decoder_32 = rig->cache->decoder_32;
    memset(&rig->cache->decoder, 0xff, sizeof(decoder));
    memset(&rig->cache->decoder_32, 0xff, sizeof(decoder_32));
    bool is_known = decode(rig, bytes, offset, insn) && insn->decoded.length != 0;
    rig->cache->decoder = decoder;
    rig->cache->decoder_32 = decoder_32;
    return is_known;
}

static void forget(struct rig *rig)
{
    assert_int_equal(madvise(rig->cache->known, decode_size(), MADV_DONTNEED), 0);
}

static void assert_same(const struct guest_insn *a, const struct guest_insn *b)
{
    assert_memory_equal(&a->decoded, &b->decoded, sizeof(a->decoded));
    assert_memory_equal(a->operand, b->operand,
                        a->decoded.operand_count * sizeof(a->operand[0]));
    assert_memory_equal(a->bytes, b->bytes, a->decoded.length);
    assert_int_equal(a->offset, b->offset);
    assert_ptr_equal(a->emit, b->emit);
    assert_int_equal(a->copied_size, b->copied_size);
    assert_memory_equal(a->copied, b->copied, a->copied_size);
    assert_int_equal(a->ends_block, b->ends_block);
    assert_int_equal(a->uses_vector, b->uses_vector);
    assert_int_equal(a->uses_fpu, b->uses_fpu);
    assert_int_equal(a->memory, b->memory);
    assert_int_equal(a->accesses, b->accesses);
    assert_int_equal(a->borrowed, b->borrowed);
    assert_int_equal(a->gpr_written, b->gpr_written);
    assert_int_equal(a->has_high_byte, b->has_high_byte);
    assert_int_equal(a->is_unconcerned, b->is_unconcerned);
    assert_int_equal(a->moves_values, b->moves_values);
    assert_int_equal(a->keeps_addresses, b->keeps_addresses);
    assert_int_equal(a->flags_read, b->flags_read);
    assert_int_equal(a->flags_kill, b->flags_kill);
    assert_int_equal(a->shows, b->shows);
    assert_int_equal(a->counts_bits, b->counts_bits);
    assert_int_equal(a->is_origin, b->is_origin);
    assert_int_equal(a->stores, b->stores);
    assert_int_equal(a->can_recover, b->can_recover);
    assert_int_equal(a->flags_write, b->flags_write);
}

/* Prefixes, an opcode of any map, the rest by chance. */
static void make_bytes(struct rig *rig, uint8_t bytes[INSN_BYTES_MAX])
{
    static const uint8_t prefix[] = {0x66, 0xf2, 0xf3, 0xf0, 0x64, 0x67, 0x2e, 0x36};
    unsigned i = 0;
    for (unsigned j = 0; j < INSN_BYTES_MAX; j++) {
        bytes[j] = (uint8_t)next(rig);
    }
    while (next(rig) % 3 == 0 && i < 5) {
        bytes[i++] = prefix[next(rig) % sizeof(prefix)];
    }
    if (next(rig) % 2) {
        bytes[i++] = 0x40 | (next(rig) & 15);
    }
    switch (next(rig) % 6) {
    case 0:
    case 1:
        bytes[i++] = 0x0f;
        break;
    case 2:
        bytes[i++] = next(rig) % 2 ? 0xc4 : 0xc5;
        break;
    case 3:
        bytes[i++] = 0x0f;
        bytes[i++] = next(rig) % 2 ? 0x38 : 0x3a;
        break;
    default:
        break;
    }
}

static void test_recalls_what_it_worked_out(void **state)
{
    static const unsigned modes[] = {0, MODE_USER, MODE_32 | MODE_FLAT, MODE_32,
                                     MODE_USER | MODE_FIXED};
    static struct guest_insn first, known, fresh;
    struct rig rig;
    open_rig(&rig);
    unsigned recalled = 0, immediates = 0, displacements = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint8_t bytes[INSN_BYTES_MAX];
        set_mode(&rig, modes[i % 5]);
        make_bytes(&rig, bytes);
        forget(&rig);
        assert_true(decode(&rig, bytes, AT, &first));
        const struct decoded *decoded = &first.decoded;
        /* Another displacement, another immediate, other bytes behind. */
        unsigned fixed = decoded->raw.disp.size     ? decoded->raw.disp.offset
                         : decoded->raw.imm[0].size ? decoded->raw.imm[0].offset
                                                    : decoded->length;
        for (unsigned j = fixed; j < INSN_BYTES_MAX; j++) {
            bytes[j] = (uint8_t)next(&rig);
        }
        if (!recall(&rig, bytes, AT, &known)) {
            continue;
        }
        recalled++;
        immediates += known.decoded.raw.imm[0].size != 0;
        displacements += known.decoded.raw.disp.size != 0;
        forget(&rig);
        assert_true(decode(&rig, bytes, AT, &fresh));
        assert_same(&known, &fresh);
    }
    assert_true(recalled > ROUNDS / 4);
    assert_true(immediates > ROUNDS / 20);
    assert_true(displacements > ROUNDS / 20);
    close_rig(&rig);
}

/* ADD EAX, imm32 as others are known is not a whole instruction where the page ends. */
/* POP to memory has a head that is not remembered, ADD [RAX], AL one that is zero. */
static void test_zero_is_a_head(void **state)
{
    static struct guest_insn insn;
    static const uint8_t add[INSN_BYTES_MAX] = {0x00, 0x00},
                         pop[] = {0x8f, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    struct rig rig;
    open_rig(&rig);
    set_mode(&rig, 0);
    assert_true(decode(&rig, add, AT, &insn));
    assert_true(recall(&rig, add, AT, &insn));
    assert_int_equal(insn.decoded.mnemonic, ZYDIS_MNEMONIC_ADD);
    assert_true(decode(&rig, pop, AT, &insn));
    assert_int_equal(insn.decoded.mnemonic, ZYDIS_MNEMONIC_POP);
    close_rig(&rig);
}

/* More kinds than there is room for: sets overflow, then everything is forgotten. */
static void test_forgets_and_learns_again(void **state)
{
    static struct guest_insn known, fresh;
    struct rig rig, other;
    open_rig(&rig);
    open_rig(&other);
    for (unsigned i = 0; i < 8 * ROUNDS; i++) {
        uint8_t bytes[INSN_BYTES_MAX];
        set_mode(&rig, i % 3 ? 0 : MODE_32 | MODE_FLAT);
        set_mode(&other, rig.emit.mode);
        make_bytes(&rig, bytes);
        forget(&other);
        assert_true(decode(&rig, bytes, AT, &known));
        assert_true(decode(&other, bytes, AT, &fresh));
        assert_same(&known, &fresh);
    }
    close_rig(&other);
    close_rig(&rig);
}

static void test_needs_all_bytes(void **state)
{
    static struct guest_insn insn;
    static const uint8_t bytes[INSN_BYTES_MAX] = {0x05, 1, 2, 3, 4};
    struct rig rig;
    open_rig(&rig);
    assert_true(decode(&rig, bytes, AT, &insn));
    for (unsigned room = 1; room < INSN_BYTES_MAX; room++) {
        assert_int_equal(recall(&rig, bytes, FRAME_SIZE - room, &insn), room >= 5);
        assert_int_equal(decode(&rig, bytes, FRAME_SIZE - room, &insn), room >= 5);
    }
    close_rig(&rig);
}

/* What one mode makes of bytes is not what another does. */
static void test_modes_are_apart(void **state)
{
    static struct guest_insn insn;
    static const uint8_t inc[INSN_BYTES_MAX] = {0x40, 0x90};
    struct rig rig;
    open_rig(&rig);
    set_mode(&rig, MODE_32);
    assert_true(decode(&rig, inc, AT, &insn));
    assert_int_equal(insn.decoded.mnemonic, ZYDIS_MNEMONIC_INC);
    set_mode(&rig, 0);
    assert_true(decode(&rig, inc, AT, &insn));
    assert_int_equal(insn.decoded.mnemonic, ZYDIS_MNEMONIC_NOP);
    close_rig(&rig);
}

/* A shift's flags depend on its count, although its kind is known. */
static void test_counts_of_shifts(void **state)
{
    static struct guest_insn insn;
    uint8_t bytes[INSN_BYTES_MAX] = {0xc1, 0xe0}; /* SHL EAX, imm8 */
    struct rig rig;
    open_rig(&rig);
    for (unsigned count = 0; count < 64; count++) {
        bytes[2] = (uint8_t)count;
        assert_true(decode(&rig, bytes, AT, &insn));
        assert_int_equal(insn.flags_kill != 0, count % 32 != 0);
    }
    close_rig(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recalls_what_it_worked_out),
        cmocka_unit_test(test_zero_is_a_head),
        cmocka_unit_test(test_forgets_and_learns_again),
        cmocka_unit_test(test_needs_all_bytes),
        cmocka_unit_test(test_modes_are_apart),
        cmocka_unit_test(test_counts_of_shifts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
