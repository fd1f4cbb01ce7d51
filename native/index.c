/* A hash table of the control thread's own: a number to a pointer, in constant time whatever their number. */
#include "index.h"

#include <stdlib.h>

#define SIZE_MIN 16

static size_t home_of(const struct index *index, uint64_t key) {
  uint64_t hash = key * 0x9e3779b97f4a7c15u;
  return (size_t)(hash ^ hash >> 32) & (index->size - 1);
}

static size_t next_of(const struct index *index, size_t at) {
  return (at + 1) & (index->size - 1);
}

/* The key's entry, or the free one where it would go. */
static struct index_entry *entry_of(const struct index *index, uint64_t key) {
  size_t at = home_of(index, key);
  while (index->entries[at].value && index->entries[at].key != key)
    at = next_of(index, at);
  return &index->entries[at];
}

static bool grow(struct index *index) {
  struct index grown = {.size = index->size ? index->size * 2 : SIZE_MIN, .count = index->count};
  grown.entries = calloc(grown.size, sizeof *grown.entries);
  if (!grown.entries) return false;
  for (size_t i = 0; i < index->size; i++)
    if (index->entries[i].value) *entry_of(&grown, index->entries[i].key) = index->entries[i];
  free(index->entries);
  *index = grown;
  return true;
}

bool index_put(struct index *index, uint64_t key, void *value) {
  if (2 * (index->count + 1) > index->size && !grow(index)) return false;
  *entry_of(index, key) = (struct index_entry){key, value};
  index->count++;
  return true;
}

void *index_at(const struct index *index, uint64_t key) {
  return index->size ? entry_of(index, key)->value : NULL;
}

void index_remove(struct index *index, uint64_t key) {
  if (!index_at(index, key)) return;
  size_t hole = (size_t)(entry_of(index, key) - index->entries), mask = index->size - 1;
  /* What stands behind it moves up, unless that would put it before its home: no entry may hide behind a free one. */
  for (size_t at = next_of(index, hole); index->entries[at].value; at = next_of(index, at)) {
    size_t home = home_of(index, index->entries[at].key);
    if (((at - home) & mask) < ((at - hole) & mask)) continue;
    index->entries[hole] = index->entries[at];
    hole = at;
  }
  index->entries[hole].value = NULL;
  index->count--;
}

void index_free(struct index *index) {
  free(index->entries);
  *index = (struct index){NULL, 0, 0};
}
