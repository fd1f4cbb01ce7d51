/* Inbound SAs by SPI. Workers: sa_lookup in dataplane.h. */
#ifndef GATEWAY_SPI_TABLE_H
#define GATEWAY_SPI_TABLE_H

#include "dataplane.h"

/* From now on workers find it. False: out of memory. */
bool spi_publish(struct dataplane *plane, struct sa *sa);
/* Once the workers were quiescent none of them has it. */
void spi_unpublish(struct dataplane *plane, const struct sa *sa);
size_t spi_count(const struct dataplane *plane);

#endif
