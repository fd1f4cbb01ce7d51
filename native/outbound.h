/* TUN -> selectors -> segments -> seal -> socket. */
#ifndef GATEWAY_OUTBOUND_H
#define GATEWAY_OUTBOUND_H

#include "dataplane.h"

struct outbound *outbound_new(void);
void outbound_free(struct outbound *outbound);
/* Reads what the TUN queue has, within a budget, and sends it. False when the TUN is gone. */
bool outbound_turn(struct worker *worker, struct source *queue);

#endif
