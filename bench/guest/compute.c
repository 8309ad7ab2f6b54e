/* Integer workloads, for the guest and for the host. */
#include "workload.h"

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Numerical Recipes' generator; its high bits are good enough to defeat prediction. */
static uint64_t random_next(uint64_t value)
{
    return value * 6364136223846793005u + 1442695040888963407u;
}

static uint64_t table[512];

__attribute__((noinline)) static uint64_t step(uint64_t *slot, uint64_t value)
{
    *slot += value;
    return *slot ^ value >> 7;
}

uint64_t loop_run(uint64_t rounds)
{
    uint64_t sum = 1;
    for (uint64_t i = 0; i < rounds; i++) {
        sum += step(&table[i % COUNT_OF(table)], sum);
        sum ^= table[(i + 64) % COUNT_OF(table)] + (sum << 3);
    }
    return sum;
}

struct node {
    struct node *next;
    uint64_t value[7];
};

static struct node pool[32 << 20 >> 6];

/* Links every `step`-th node of the first `count * step` into one random ring
 * (Sattolo's shuffle). */
static struct node *make_ring(uint32_t count, uint32_t step)
{
    for (uint32_t i = 0; i < count; i++) {
        pool[i * step].next = &pool[i * step];
    }
    uint64_t random = 1;
    for (uint32_t i = count - 1; i > 0; i--) {
        random = random_next(random);
        uint32_t j = (uint32_t)((random >> 32) % i);
        struct node *swapped = pool[i * step].next;
        pool[i * step].next = pool[j * step].next;
        pool[j * step].next = swapped;
    }
    return pool;
}

static uint64_t follow(const struct node *node, uint64_t rounds)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        node = node->next;
        sum += node->value[0];
    }
    return sum + (uint64_t)(node - pool);
}

uint64_t chase_run(uint64_t rounds)
{
    return follow(make_ring(1 << 20 >> 6, 1), rounds);
}

uint64_t stride_run(uint64_t rounds)
{
    return follow(make_ring(32 << 20 >> 12, 64), rounds);
}

uint64_t branch_run(uint64_t rounds)
{
    uint64_t random = 1, sum = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        random = random_next(random);
        if (random >> 63) {
            sum += i;
        } else if (random >> 62 & 1) {
            sum ^= random;
        } else {
            sum -= 3;
        }
        if (sum & 4) {
            sum = sum << 1 | sum >> 63;
        }
        __asm__ volatile("" : "+r"(sum)); /* branches, not conditional moves */
    }
    return sum;
}

uint64_t string_run(uint64_t rounds)
{
    static uint8_t from[4096], to[4096];
    for (uint64_t i = 0; i < rounds; i++) {
        void *destination = from;
        uint64_t count = sizeof(from) / 8;
        __asm__ volatile("rep stosq"
                         : "+D"(destination), "+c"(count)
                         : "a"(i)
                         : "memory");
        const void *source = from;
        destination = to;
        count = sizeof(to);
        __asm__ volatile("rep movsb"
                         : "+D"(destination), "+S"(source), "+c"(count)
                         :
                         : "memory");
    }
    return to[0];
}

uint8_t *modify_page;

uint64_t modify_run(uint64_t rounds)
{
    uint64_t sum = 0;
    volatile uint8_t *code = modify_page;
    code[0] = 0xb8; /* mov eax, imm32 */
    code[5] = 0xc3; /* ret */
    for (uint64_t i = 0; i < rounds; i++) {
        *(volatile uint32_t *)(code + 1) = (uint32_t)i;
        sum += ((uint32_t(*)(void))modify_page)();
    }
    return sum;
}
