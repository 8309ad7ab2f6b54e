/* The CPU model in the stream. */

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "state/processor.h"
#include "x86/cpuid_table.h"

#define CPU_MODEL_VERSION 1

static const struct device_field model_fields[] = {
    DEVICE_FIELD(struct cpuid_policy, vendor),
    DEVICE_FIELD(struct cpuid_policy, physical_bits),
    DEVICE_FIELD(struct cpuid_policy, linear_bits),
    DEVICE_FIELD(struct cpuid_policy, tsc_khz),
    DEVICE_FIELD(struct cpuid_policy, cpus),
    DEVICE_FIELD(struct cpuid_policy, paravirt),
    DEVICE_FIELD(struct cpuid_policy, xcr0_valid),
    DEVICE_FIELD(struct cpuid_policy, immunities),
    DEVICE_FIELD_END,
};

#define LEAF_WORDS 7 /* leaf, subleaf, has_subleaves, eax, ebx, ecx, edx */

static void put_leaves(struct stream_writer *writer, const struct cpuid_policy *policy)
{
    uint32_t words[CPUID_LEAVES_MAX * LEAF_WORDS];
    for (unsigned i = 0; i < policy->leaf_count; i++) {
        const struct cpuid_leaf *leaf = &policy->leaf[i];
        const uint32_t row[LEAF_WORDS] = {leaf->leaf, leaf->subleaf, leaf->has_subleaves,
                                          leaf->eax,  leaf->ebx,     leaf->ecx,
                                          leaf->edx};
        memcpy(&words[i * LEAF_WORDS], row, sizeof(row));
    }
    stream_put(writer, "leaves", words, 4, policy->leaf_count * LEAF_WORDS);
}

static void put_features(struct stream_writer *writer, const struct cpuid_policy *policy)
{
    char text[CPU_FEATURE_COUNT * 20] = "";
    size_t at = 0;
    for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
        size_t length = strlen(cpuid_features[i].name);
        if (cpuid_has(policy, i) && at + length + 2 <= sizeof(text)) {
            memcpy(text + at, cpuid_features[i].name, length);
            text[at + length] = ',';
            at += length + 1;
        }
    }
    text[at] = '\0';
    stream_put_text(writer, "features", text);
}

void cpu_model_put(struct stream_writer *writer, const struct cpuid_policy *policy)
{
    stream_begin(writer, "cpu-model", "", CPU_MODEL_VERSION, STREAM_REQUIRED);
    stream_put_fields(writer, model_fields, policy);
    put_features(writer, policy);
    put_leaves(writer, policy);
    stream_end(writer);
}

static int get_leaves(const struct stream_section *section, struct cpuid_policy *policy,
                      struct error *err)
{
    struct stream_field field;
    int result = section_field(section, "leaves", 4, &field, err);
    if (result < 0) {
        return result;
    }
    if (field.count % LEAF_WORDS || field.count / LEAF_WORDS > CPUID_LEAVES_MAX) {
        return fail_plain(err, EINVAL, "the CPU model has %" PRIu32 " words of leaves",
                          field.count);
    }
    policy->leaf_count = field.count / LEAF_WORDS;
    for (unsigned i = 0; i < policy->leaf_count; i++) {
        uint32_t row[LEAF_WORDS];
        memcpy(row, field.data + i * sizeof(row), sizeof(row));
        policy->leaf[i] = (struct cpuid_leaf){row[0], row[1], row[2] != 0, row[3],
                                              row[4], row[5], row[6]};
    }
    return 0;
}

static bool add_feature(struct cpuid_policy *policy, const char *name)
{
    for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
        if (strcmp(cpuid_features[i].name, name) == 0) {
            policy->features[i / 64] |= 1ull << i % 64;
            return true;
        }
    }
    return false;
}

static int get_features(const struct stream_section *section, struct cpuid_policy *policy,
                        struct error *err)
{
    SCOPE_FREE char *text = NULL;
    int result = section_text(section, "features", &text, err);
    if (result < 0) {
        return result;
    }
    char *rest = text;
    for (char *name = strsep(&rest, ","); name; name = strsep(&rest, ",")) {
        if (*name && !add_feature(policy, name)) {
            return fail_plain(err, ENOTSUP,
                              "the CPU model has the feature %.32s, which Doppel %s does "
                              "not know",
                              name, DOPPEL_VERSION);
        }
    }
    return 0;
}

int cpu_model_get(struct stream *stream, struct cpuid_policy *policy, struct error *err)
{
    *policy = (struct cpuid_policy){0};
    const struct stream_section *section =
        stream_need(stream, "cpu-model", "", CPU_MODEL_VERSION, err);
    if (!section) {
        return -err->code;
    }
    int result = section_fields_some(section, model_fields, policy, err);
    if (result >= 0) {
        result = get_features(section, policy, err);
    }
    return result >= 0 ? get_leaves(section, policy, err) : result;
}
