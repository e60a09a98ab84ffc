/* The plain C twin of one table format: page by page from the root, as a hypervisor's table crate does it.
 *
 * Compiled once a format (-DEPT, -DARM or -DSV39); `twins/__init__.py` calls it. Its entries are those of the project's
 * own tables, so both work on the same bytes. What it leaves out: reserved bits, memory types, owners, invalidations, and
 * giving tables back.
 *
 * A word of physical memory at address a lies at a + delta.
 */
#include <stdint.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint8_t u8;

#if defined(EPT)
enum { LEVELS = 4, ROOT_BITS = 9, LEVELS_1 = 4 };
#define PRESENT(e) (((e) & 7) != 0)
#define IS_LEAF(e, level) ((level) == 0 || ((e) >> 7 & 1))
#define ADDRESS(e) ((e) & 0x000ffffffffff000)
#define ALLOWS(e) ((e) & 7)
#define MAKE_LEAF(at, level, allows) ((at) | 0x30 | (allows) | ((level) ? 0x80 : 0))
#define MAKE_TABLE(at) ((at) | 7)
/* Stage 1 is the processor's own four levels. */
#define PRESENT_1(e) ((e) & 1)
#define IS_LEAF_1(e, level) ((level) == 0 || ((e) >> 7 & 1))
#define ADDRESS_1(e) ((e) & 0x000ffffffffff000)
#define ALLOWS_1(e) (1 | ((e) & 2) | ((e) >> 63 ? 0 : 4))
#elif defined(ARM)
enum { LEVELS = 3, ROOT_BITS = 10, LEVELS_1 = 4 };
#define PRESENT(e) ((e) & 1)
#define IS_LEAF(e, level) ((level) == 0 || !((e) & 2))
#define ADDRESS(e) ((e) & 0x0000fffffffff000)
#define ALLOWS(e) ((e) >> 6 & 3)
#define MAKE_LEAF(at, level, allows) ((at) | 0x73d | (allows) << 6 | ((level) ? 0 : 2))
#define MAKE_TABLE(at) ((at) | 3)
#define PRESENT_1(e) ((e) & 1)
#define IS_LEAF_1(e, level) ((level) == 0 || !((e) & 2))
#define ADDRESS_1(e) ((e) & 0x0000fffffffff000)
#define ALLOWS_1(e) (1 | ((e) >> 7 & 1 ? 0 : 2))
#elif defined(SV39)
enum { LEVELS = 3, ROOT_BITS = 11, LEVELS_1 = 3 };
#define PRESENT(e) ((e) & 1)
#define IS_LEAF(e, level) (((e) & 14) != 0)
#define ADDRESS(e) ((e) >> 10 << 12 & 0x00fffffffffff000)
#define ALLOWS(e) ((e) >> 1 & 7)
#define MAKE_LEAF(at, level, allows) ((at) >> 2 | 0xd1 | (allows) << 1)
#define MAKE_TABLE(at) ((at) >> 2 | 1)
#define PRESENT_1 PRESENT
#define IS_LEAF_1 IS_LEAF
#define ADDRESS_1 ADDRESS
#define ALLOWS_1 ALLOWS
#else
#error "say which format: -DEPT, -DARM or -DSV39"
#endif

#define WORD(at) (*(volatile u64 *)(uintptr_t)((at) + delta))
#define PLAIN_WORD(at) (*(u64 *)(uintptr_t)((at) + delta))
enum { PAGE_SHIFT = 12, MAPPED = 0, FAULT = 1 };

static inline unsigned shift_of(int level) { return PAGE_SHIFT + 9 * level; }

static inline u64 index_of(u64 address, int level)
{
    return address >> shift_of(level) & ((1u << (level == LEVELS - 1 ? ROOT_BITS : 9)) - 1);
}

/* Where tables come from: zeroed memory of which so much is used. */
struct pool { u64 next, end; };

/* The slot of `address` at `level`, tables made on the way; 0 where a leaf is in the way or no table is left. */
static u64 slot_for(u64 delta, u64 root, struct pool *pool, u64 address, int level)
{
    u64 table = root;
    for (int at = LEVELS - 1; at > level; at--) {
        u64 slot = table + 8 * index_of(address, at), entry = PLAIN_WORD(slot);
        if (!PRESENT(entry)) {
            if (pool->next == pool->end)
                return 0;
            entry = MAKE_TABLE(pool->next);
            pool->next += 4096;
            PLAIN_WORD(slot) = entry;
        } else if (IS_LEAF(entry, at))
            return 0;
        table = ADDRESS(entry);
    }
    return table + 8 * index_of(address, level);
}

/* The slot of the leaf that maps `address`, and its level; 0 where nothing does. */
static u64 leaf_of(u64 delta, u64 root, u64 address, int *level)
{
    u64 table = root;
    for (int at = LEVELS - 1; at >= 0; at--) {
        u64 slot = table + 8 * index_of(address, at), entry = PLAIN_WORD(slot);
        if (!PRESENT(entry))
            return 0;
        if (IS_LEAF(entry, at)) {
            *level = at;
            return slot;
        }
        table = ADDRESS(entry);
    }
    return 0;
}

u64 map_pages(u64 delta, u64 root, struct pool *pool, u64 start, u64 to, u64 count, int level, u64 allows)
{
    for (u64 i = 0; i < count; i++) {
        u64 slot = slot_for(delta, root, pool, start + (i << shift_of(level)), level);
        if (!slot || PRESENT(PLAIN_WORD(slot)))
            return i;
        WORD(slot) = MAKE_LEAF(to + (i << shift_of(level)), level, allows);
    }
    return count;
}

u64 unmap_pages(u64 delta, u64 root, u64 start, u64 size)
{
    u64 found = 0;
    for (u64 address = start; address < start + size;) {
        int level = 0;
        u64 slot = leaf_of(delta, root, address, &level);
        if (slot) {
            WORD(slot) = 0;
            found++;
        }
        address += 1ull << shift_of(level);
    }
    return found;
}

u64 protect_pages(u64 delta, u64 root, u64 start, u64 size, u64 allows)
{
    u64 found = 0;
    for (u64 address = start; address < start + size;) {
        int level = 0;
        u64 slot = leaf_of(delta, root, address, &level);
        if (slot) {
            WORD(slot) = MAKE_LEAF(ADDRESS(PLAIN_WORD(slot)), level, allows);
            found++;
        }
        address += 1ull << shift_of(level);
    }
    return found;
}

/* A fault on each of these pages in turn: what is absent gets the next frame of the pool; how many did. */
u64 fault_pages(u64 delta, u64 root, struct pool *pool, struct pool *frames, const u64 *addresses, u64 count, u64 allows)
{
    u64 populated = 0;
    for (u64 i = 0; i < count; i++) {
        u64 slot = slot_for(delta, root, pool, addresses[i], 0);
        if (!slot)
            return populated;
        if (!PRESENT(PLAIN_WORD(slot))) {
            WORD(slot) = MAKE_LEAF(frames->next, 0, allows);
            frames->next += 4096;
            populated++;
        }
    }
    return populated;
}

/* Rows of (start, output, size, allows), neighbours joined where `merge` says so; how many. */
static u64 list_table(u64 delta, u64 table, u64 start, int level, u64 merge, u64 (*rows)[4], u64 count)
{
    u64 entries = 1ull << (level == LEVELS - 1 ? ROOT_BITS : 9), span = 1ull << shift_of(level);
    for (u64 i = 0; i < entries; i++, start += span) {
        u64 entry = PLAIN_WORD(table + 8 * i);
        if (!PRESENT(entry))
            continue;
        u64 to = ADDRESS(entry), allows = ALLOWS(entry);
        if (!IS_LEAF(entry, level)) {
            count = list_table(delta, to, start, level - 1, merge, rows, count);
            continue;
        }
        u64 *last = rows[count - (count != 0)];
        if (merge && count && last[0] + last[2] == start && last[1] + last[2] == to && last[3] == allows) {
            last[2] += span;
            continue;
        }
        u64 *row = rows[count++];
        row[0] = start, row[1] = to, row[2] = span, row[3] = allows;
    }
    return count;
}

u64 list_leaves(u64 delta, u64 root, u64 merge, u64 (*rows)[4])
{
    return list_table(delta, root, 0, LEVELS - 1, merge, rows, 0);
}

/* Stage 2 of one address: the output, what is allowed, and the level in the upper bits as the project's batches have it. */
static inline u8 look_up(u64 delta, u64 root, u64 address, u64 *out, u32 *attributes)
{
    u64 table = root, allows = ~0ull;
    if (address >> (shift_of(LEVELS - 1) + ROOT_BITS))
        return FAULT;
    for (int level = LEVELS - 1; level >= 0; level--) {
        u64 entry = PLAIN_WORD(table + 8 * index_of(address, level));
        if (!PRESENT(entry))
            return FAULT;
        if (IS_LEAF(entry, level)) {
            u64 inside = (1ull << shift_of(level)) - 1;
            *out = (ADDRESS(entry) & ~inside) | (address & inside);
            *attributes = (u32)(ALLOWS(entry) & allows) | (u32)level << 24;
            return MAPPED;
        }
#if defined(EPT)
        allows &= ALLOWS(entry);
#endif
        table = ADDRESS(entry);
    }
    return FAULT;
}

void translate_many(u64 delta, u64 root, const u64 *addresses, u64 count, u64 *out, u32 *attributes, u8 *status)
{
    for (u64 i = 0; i < count; i++) {
        u64 to = ~0ull;
        u32 found = 0;
        status[i] = look_up(delta, root, addresses[i], &to, &found);
        out[i] = to;
        attributes[i] = found;
    }
}

/* Both stages: stage 1 has four-KiB tables of 512 entries, whose addresses stage 2 translates. */
void translate_two_stage(u64 delta, u64 root_1, u64 root_2, const u64 *addresses, u64 count, u64 need, u64 *out, u64 *gpa,
                         u8 *allowed, u32 *status)
{
    for (u64 i = 0; i < count; i++) {
        u64 table = root_1, address = addresses[i], to = ~0ull, middle = 0, allows = 0;
        u32 attributes = 0, result = FAULT;
        for (int level = LEVELS_1 - 1; level >= 0; level--) {
            u64 slot, shift = shift_of(level);
            if (look_up(delta, root_2, table + 8 * (address >> shift & 511), &slot, &attributes))
                break;
            u64 entry = PLAIN_WORD(slot);
            if (!PRESENT_1(entry))
                break;
            if (IS_LEAF_1(entry, level)) {
                u64 inside = (1ull << shift) - 1;
                middle = (ADDRESS_1(entry) & ~inside) | (address & inside);
                allows = ALLOWS_1(entry);
                if (!look_up(delta, root_2, middle, &to, &attributes) && (allows & attributes & need) == need)
                    result = MAPPED;
                allows &= attributes & 7;
                break;
            }
            table = ADDRESS_1(entry);
        }
        out[i] = to;
        gpa[i] = middle;
        allowed[i] = (u8)allows;
        status[i] = result;
    }
}

/* What memory itself takes: `count` loads, each from where the last one said (latency). */
u64 chase(const u64 *next, u64 at, u64 count)
{
    while (count--)
        at = next[at];
    return at;
}

/* Loads that do not wait for each other, from places that are known beforehand (throughput of random loads). */
u64 gather(const u64 *words, const u32 *places, u64 count)
{
    u64 sum = 0;
    for (u64 i = 0; i < count; i++)
        sum += words[places[i]];
    return sum;
}

/* One address, called from Python as our single lookups are. */
u64 translate_one(u64 delta, u64 root, u64 address)
{
    u64 to = ~0ull;
    u32 found = 0;
    look_up(delta, root, address, &to, &found);
    return to;
}
