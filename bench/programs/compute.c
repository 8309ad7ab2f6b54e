/* Integer code that does without the kernel. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "work.h"

/* The same numbers everywhere: Marsaglia's xorshift. */
static uint64_t next_number(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void *allocate(size_t size)
{
    void *memory = malloc(size);
    if (!memory) {
        work_fail("malloc");
    }
    return memory;
}

/* --- hash table --- */

#define BUCKETS 16384

struct entry {
    struct entry *next;
    uint64_t count;
    char key[16];
};

static uint32_t hash_of(const char *key)
{
    uint32_t hash = 2166136261; /* FNV-1a */
    for (; *key; key++) {
        hash = (hash ^ (unsigned char)*key) * 16777619;
    }
    return hash;
}

static void spell(char *key, uint64_t number)
{
    static const char letters[] = "etaoinshrdlucmfw";
    int length = 5 + (int)(number & 7);
    for (int i = 0; i < length; i++) {
        number = number * 6364136223846793005 + 1;
        key[i] = letters[number >> 60];
    }
    key[length] = 0;
}

static struct entry *entry_find(struct entry **table, const char *key)
{
    struct entry **at = &table[hash_of(key) % BUCKETS];
    for (; *at; at = &(*at)->next) {
        if (!strcmp((*at)->key, key)) {
            return *at;
        }
    }
    *at = allocate(sizeof(**at));
    **at = (struct entry){0};
    strcpy((*at)->key, key);
    return *at;
}

uint64_t hash_run(uint64_t rounds)
{
    struct entry **table = calloc(BUCKETS, sizeof(*table));
    if (!table) {
        work_fail("calloc");
    }
    uint64_t state = 42, sum = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        char key[16];
        spell(key, next_number(&state) % 40000);
        sum += ++entry_find(table, key)->count * i;
    }
    return sum;
}

/* --- sorting --- */

#define SORTED 32768

static void quicksort(uint64_t *first, uint64_t *last)
{
    while (first < last) {
        uint64_t pivot = first[(last - first) / 2], *low = first, *high = last;
        while (low <= high) {
            while (*low < pivot) {
                low++;
            }
            while (*high > pivot) {
                high--;
            }
            if (low <= high) {
                uint64_t swapped = *low;
                *low++ = *high;
                *high-- = swapped;
            }
        }
        quicksort(first, high);
        first = low;
    }
}

static int compare(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

uint64_t sort_run(uint64_t rounds)
{
    uint64_t *numbers = allocate(SORTED * sizeof(*numbers)), state = 7, sum = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        for (int j = 0; j < SORTED; j++) {
            numbers[j] = next_number(&state);
        }
        if (i & 1) {
            qsort(numbers, SORTED, sizeof(*numbers), compare);
        } else {
            quicksort(numbers, numbers + SORTED - 1);
        }
        for (int j = 0; j < SORTED; j += 100) {
            sum = sum * 31 + numbers[j];
        }
    }
    free(numbers);
    return sum;
}

/* --- calls --- */

/* noipa: or the compiler inlines the recursion into itself, and there are few calls. */
static __attribute__((noipa)) uint64_t fibonacci(uint64_t n)
{
    if (n < 2) {
        return n;
    }
    uint64_t before = fibonacci(n - 1);
    return before + fibonacci(n - 2);
}

uint64_t calls_run(uint64_t rounds)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        sum += fibonacci(20 + (i & 1));
    }
    return sum;
}

/* --- pointers --- */

#define NODES (8 * 1024 * 1024 / 64)

struct node {
    struct node *next;
    uint64_t value[7];
};

uint64_t chase_run(uint64_t rounds)
{
    struct node *nodes = aligned_alloc(64, NODES * sizeof(*nodes));
    uint32_t *order = allocate(NODES * sizeof(*order));
    if (!nodes) {
        work_fail("aligned_alloc");
    }
    uint64_t state = 99, sum = 0;
    for (uint32_t i = 0; i < NODES; i++) {
        order[i] = i;
    }
    for (uint32_t i = NODES - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(next_number(&state) % (i + 1)), swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
    for (uint32_t i = 0; i < NODES; i++) {
        nodes[order[i]].next = &nodes[order[(i + 1) % NODES]];
        nodes[order[i]].value[0] = i;
    }
    struct node *at = nodes;
    for (uint64_t i = 0; i < rounds; i++) {
        sum += at->value[0] ^ i;
        at = at->next;
    }
    free(order);
    free(nodes);
    return sum;
}

/* --- sieve --- */

#define LIMIT 1000000

uint64_t sieve_run(uint64_t rounds)
{
    unsigned char *composite = allocate(LIMIT);
    uint64_t sum = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        memset(composite, 0, LIMIT);
        for (uint32_t n = 2; n < LIMIT; n++) {
            if (composite[n]) {
                continue;
            }
            sum += n;
            for (uint64_t multiple = (uint64_t)n * n; multiple < LIMIT; multiple += n) {
                composite[multiple] = 1;
            }
        }
    }
    free(composite);
    return sum;
}

/* --- an interpreter --- */

enum { PUSH, ADD, XOR, ROTATE, LOAD, STORE, SWAP, NEXT };

uint64_t dispatch_run(uint64_t rounds)
{
    static const unsigned char program[] = {
        LOAD, 0,    PUSH, 77,   ADD, ROTATE, LOAD, 1,      XOR,   STORE,
        0,    LOAD, 1,    PUSH, 13,  ADD,    SWAP, ROTATE, STORE, 1,
        LOAD, 2,    LOAD, 0,    ADD, STORE,  2,    NEXT};
    static const void *const routine[] = {&&push, &&add,   &&xor,  &&rotate,
                                          &&load, &&store, &&swap, &&next};
    uint64_t variables[3] = {1, 2, 3}, stack[8], *top = stack;
    const unsigned char *at = program;
    *top = 0;
#define GO goto *routine[*at++]
    GO;
push:
    *++top = *at++;
    GO;
add:
    top[-1] += *top;
    top--;
    GO;
    xor : top[-1] ^= *top;
    top--;
    GO;
rotate:
    *top = *top << 9 | *top >> 55;
    GO;
load:
    *++top = variables[*at++];
    GO;
store:
    variables[*at++] = *top--;
    GO;
swap:
    variables[1] ^= variables[0] >> 3;
    GO;
next:
    if (--rounds) {
        at = program;
        GO;
    }
#undef GO
    return variables[2];
}
