/* The table in which workers find an inbound SA by the SPI of a packet (RFC 4301 4.4.2), while SAs come and go. */
#include "spi_table.h"

#include <stdlib.h>

/* RFC 4303 2.1: no SA has an SPI below 256, so these two mark slots: never used, and of an SA that was removed. */
#define SPI_FREE    0u
#define SPI_REMOVED 1u

struct spi_slot {
  _Atomic uint32_t spi;
  _Atomic(struct sa *) sa;
};

/* Open addressing, at most half full. The control thread fills and clears slots while workers read: the SA is there
 * before its SPI, and gone before it. A cleared slot is not filled again, so no worker that read one SPI finds
 * another's SA behind it; a new table without them is published when no more slots may be used. */
struct spi_table {
  uint32_t mask, used, live;
  struct spi_slot slots[];
};

static uint32_t spi_hash(uint32_t spi) {
  uint32_t hash = spi * 0x9e3779b1u;
  return hash ^ hash >> 15;
}

struct sa *sa_lookup(struct dataplane *plane, uint32_t spi) {
  const struct spi_table *table = atomic_load_explicit(&plane->inbound_sas, memory_order_acquire);
  if (!table) return NULL;
  for (uint32_t i = spi_hash(spi);; i++) {
    const struct spi_slot *slot = &table->slots[i & table->mask];
    uint32_t found = atomic_load_explicit(&slot->spi, memory_order_acquire);
    /* First: a slot that was free may hold any SA by now. */
    if (found == SPI_FREE) return NULL;
    if (found == spi) return atomic_load_explicit(&slot->sa, memory_order_relaxed);
  }
}

/* The control thread's own look: the slot with this SPI, or the free one where it would go. */
static struct spi_slot *spi_slot_of(struct spi_table *table, uint32_t spi) {
  for (uint32_t i = spi_hash(spi);; i++) {
    struct spi_slot *slot = &table->slots[i & table->mask];
    uint32_t found = atomic_load(&slot->spi);
    if (found == spi || found == SPI_FREE) return slot;
  }
}

static void spi_table_fill(struct spi_table *table, struct sa *sa) {
  struct spi_slot *slot = spi_slot_of(table, sa->spi);
  atomic_store_explicit(&slot->sa, sa, memory_order_relaxed);
  atomic_store_explicit(&slot->spi, sa->spi, memory_order_release);
  table->used++;
  table->live++;
}

/* At most a quarter full with one SA more, so that a table is made once for as many additions as it holds SAs. */
static struct spi_table *spi_table_copy(const struct spi_table *old) {
  uint32_t live = old ? old->live : 0, size = 16;
  while (size < 4 * (live + 1))
    size *= 2;
  struct spi_table *table = calloc(1, sizeof *table + size * sizeof table->slots[0]);
  if (!table) return NULL;
  table->mask = size - 1;
  for (uint32_t i = 0; old && i <= old->mask; i++) {
    struct sa *sa = atomic_load(&old->slots[i].sa);
    if (sa) spi_table_fill(table, sa);
  }
  return table;
}

bool spi_publish(struct dataplane *plane, struct sa *sa) {
  struct spi_table *old = atomic_load(&plane->inbound_sas);
  if (old && 2 * (old->used + 1) <= old->mask + 1) {
    spi_table_fill(old, sa);
    return true;
  }
  struct spi_table *table = spi_table_copy(old);
  if (!table) return false;
  spi_table_fill(table, sa);
  atomic_store(&plane->inbound_sas, table);
  workers_quiesce(plane);
  free(old);
  return true;
}

void spi_unpublish(struct dataplane *plane, const struct sa *sa) {
  struct spi_table *table = atomic_load(&plane->inbound_sas);
  struct spi_slot *slot = spi_slot_of(table, sa->spi);
  atomic_store_explicit(&slot->sa, NULL, memory_order_relaxed);
  atomic_store_explicit(&slot->spi, SPI_REMOVED, memory_order_release);
  table->live--;
}

size_t spi_count(const struct dataplane *plane) {
  const struct spi_table *table = atomic_load(&plane->inbound_sas);
  return table ? table->live : 0;
}
