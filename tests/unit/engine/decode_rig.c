#include "decode_rig.h"

void open_rig(struct rig *rig)
{
    struct error err = {0};
    struct cpuid_config config = {.cpus = 1};
    memset(rig, 0, sizeof(*rig));
    assert_int_equal(cpuid_policy_init(&rig->cpuid, &config, NULL), 0);
    rig->memory = memory_new(1 << 20, &err);
    assert_non_null(rig->memory);
    int64_t frame = memory_add_frames(rig->memory, 1 << 20, &err);
    assert_true(frame >= 0);
    rig->cache = code_cache_new(rig->memory, &rig->cpuid, 1 << 20, false, true, &err);
    assert_non_null(rig->cache);
    rig->cpu = calloc(1, sizeof(*rig->cpu));
    assert_non_null(rig->cpu);
    rig->cpu->cpuid = &rig->cpuid;
    rig->block.place.frame = (frame_t)frame;
    rig->block.place.next = FRAME_NONE;
    rig->emit.cache = rig->cache;
    rig->emit.cpu = rig->cpu;
    rig->emit.block = &rig->block;
    insn_index_rows();
}

void close_rig(struct rig *rig)
{
    free(rig->cpu);
    code_cache_free(rig->cache);
    memory_free(rig->memory);
}

void set_mode(struct rig *rig, unsigned mode)
{
    rig->emit.mode = mode;
    rig->emit.is_64 = !(mode & MODE_32);
    rig->emit.width = rig->emit.is_64 ? 8 : 4;
    rig->block.place.mode = (uint8_t)mode;
}

bool decode(struct rig *rig, const uint8_t bytes[INSN_BYTES_MAX], unsigned offset,
            struct guest_insn *insn)
{
    unsigned room = FRAME_SIZE - offset;
    memcpy(memory_host(rig->memory, rig->block.place.frame) + offset, bytes,
           room < INSN_BYTES_MAX ? room : INSN_BYTES_MAX);
    memset(insn, 0x5a, sizeof(*insn)); /* what was there before must not matter */
    memset(&insn->access, 0,
           offsetof(struct guest_insn, decoded) - offsetof(struct guest_insn, access));
    insn->offset = (uint16_t)offset;
    struct peeked peeked;
    struct found found;
    decode_begin(&rig->emit);
    decode_read(&rig->emit, insn, &peeked);
    bool is_whole = decode_find(&rig->emit, insn, &peeked, &found);
    if (is_whole) {
        decode_take(&rig->emit, insn, &found);
        assert_int_equal(found.length, insn->decoded.length);
        assert_int_equal(found.ends_block, insn->ends_block);
        assert_int_equal(found.is_jcc,
                         insn->decoded.meta.category == ZYDIS_CATEGORY_COND_BR);
    }
    return is_whole;
}
