/* Where the control thread finds what it owns, by a number that is unique: an outbound SA, a connection. No worker
 * reads it. */
#ifndef GATEWAY_INDEX_H
#define GATEWAY_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct index_entry {
  uint64_t key;
  void *value; /* NULL: free */
};

/* Zero is an empty one. Open addressing, at most half full. */
struct index {
  struct index_entry *entries;
  size_t size, count;
};

/* The value is not NULL and the key not there yet. False: out of memory, and nothing changed. */
bool index_put(struct index *index, uint64_t key, void *value);
/* NULL: none. */
void *index_at(const struct index *index, uint64_t key);
void index_remove(struct index *index, uint64_t key);
void index_free(struct index *index);

#endif
