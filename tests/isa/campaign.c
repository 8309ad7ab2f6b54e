#include "campaign.h"

#include "form.h"
#include "generate.h"
#include "sequence.h"
#include "undefined.h"

#define TURNS 6 /* of each form, at the start */

uint64_t campaign_sweep(const struct campaign *campaign)
{
    return campaign->row ? 0 : (uint64_t)TURNS * form_count;
}

static bool make_single(unsigned form, uint64_t *random, struct isa_case *test,
                        struct campaign_case *made)
{
    made->form = form;
    return !form_table[form].excluded && generate_single(&form_table[form], random, test);
}

static unsigned choose_form(const struct campaign *campaign, uint64_t *random)
{
    for (;;) {
        const struct form_group *group =
            &form_groups[isa_random(random) % form_group_count];

        if ((!campaign->row || campaign->row == group->mnemonic) && !group->excluded) {
            return group->first + (unsigned)(isa_random(random) % group->count);
        }
    }
}

bool campaign_make(const struct campaign *campaign, uint64_t number,
                   struct isa_case *test, struct campaign_case *made)
{
    uint64_t random = campaign->seed * 0x2545f4914f6cdd1dull + number;

    isa_random(&random);
    random = isa_random(&random);
    uint64_t kind = isa_random(&random) % 64;
    unsigned bits = campaign->has_compat && isa_random(&random) % 4 == 0 ? 32 : 64;
    bool is_16 = campaign->has_16 && bits == 32 && isa_random(&random) % 4 == 0;
    *made = (struct campaign_case){.number = number, .form = CAMPAIGN_NO_FORM};
    if (number < campaign_sweep(campaign)) {
        return make_single((unsigned)(number % form_count), &random, test, made);
    }
    if (campaign->row || kind >= 24) {
        return make_single(choose_form(campaign, &random), &random, test, made);
    }
    if (kind == 0) {
        return generate_undefined(&random, is_16 ? 16 : bits, test);
    }
    made->is_sequence = true;
    return (kind < 6 || is_16 ? generate_sequence(&random, is_16 ? 16 : bits, test)
                              : sequence_make(&random, bits, test)) &&
           !undefined_is_read(test);
}
