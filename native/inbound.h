/* Socket -> SPI -> replay window -> open -> selectors -> coalesce -> TUN. */
#ifndef GATEWAY_INBOUND_H
#define GATEWAY_INBOUND_H

#include "dataplane.h"

struct inbound *inbound_new(void);
void inbound_free(struct inbound *inbound);
/* Receives what the socket has, within a budget. */
void inbound_turn(struct worker *worker, struct source *socket);

#endif
