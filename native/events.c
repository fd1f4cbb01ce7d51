/* What the workers tell the control plane: events and punted IKE datagrams, in two bounded rings and one eventfd.
 *
 * A full ring refuses the newest: events are rate-limited where they are raised, who raises one only once tries again,
 * and IKE retransmits. What strangers can cause takes no more than half of the ring of events.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "dataplane.h"

#define PUNTS_MAX       1024
#define PUNT_OCTETS_MAX (4u << 20)

struct event_ring {
  pthread_mutex_t lock;
  size_t first, count;
  struct event events[EVENTS_MAX];
};

struct punt_ring {
  pthread_mutex_t lock;
  size_t count, octets;
  struct punt *first, **last;
};

static const char *const event_names[] = {
    [EVENT_ACQUIRE] = "acquire",         [EVENT_EXPIRE_SOFT] = "expire-soft",
    [EVENT_EXPIRE_HARD] = "expire-hard", [EVENT_INTEGRITY_BURST] = "integrity-burst",
    [EVENT_PEER_MOVED] = "peer-moved",   [EVENT_UNKNOWN_SPI] = "unknown-spi",
};

static void kick(struct dataplane *plane) {
  uint64_t one = 1;
  /* EAGAIN: the counter is at its maximum, the fd is readable anyway. */
  if (write(plane->event_fd, &one, sizeof one) < 0) return;
}

/* The fd is cleared before a ring is emptied, and kicked again when the other ring still holds something, so that it is
 * never silent while anything waits. */
static void clear_kick(struct dataplane *plane) {
  uint64_t count;
  if (read(plane->event_fd, &count, sizeof count) < 0) return;
}

const char *event_name(enum event_kind kind) {
  return event_names[kind];
}

bool events_init(struct dataplane *plane) {
  plane->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  plane->events = calloc(1, sizeof *plane->events);
  plane->punts = calloc(1, sizeof *plane->punts);
  if (plane->event_fd < 0 || !plane->events || !plane->punts) return false;
  pthread_mutex_init(&plane->events->lock, NULL);
  pthread_mutex_init(&plane->punts->lock, NULL);
  plane->punts->last = &plane->punts->first;
  return true;
}

void events_free(struct dataplane *plane) {
  if (plane->event_fd >= 0) close(plane->event_fd);
  if (plane->punts) {
    for (struct punt *punt = plane->punts->first, *next; punt; punt = next) {
      next = punt->next;
      free(punt);
    }
  }
  free(plane->events);
  free(plane->punts);
}

static size_t room_for(enum event_kind kind) {
  bool of_strangers = kind == EVENT_ACQUIRE || kind == EVENT_UNKNOWN_SPI || kind == EVENT_INTEGRITY_BURST;
  return of_strangers ? EVENTS_OF_STRANGERS_MAX : EVENTS_MAX;
}

bool event_raise(struct dataplane *plane, enum event_kind kind, uint32_t connection, uint32_t spi, const void *detail,
                 size_t length) {
  struct event_ring *ring = plane->events;
  pthread_mutex_lock(&ring->lock);
  bool was_empty = ring->count == 0, fits = ring->count < room_for(kind);
  if (fits) {
    struct event *event = &ring->events[(ring->first + ring->count++) % EVENTS_MAX];
    event->kind = kind;
    event->connection = connection;
    event->spi = spi;
    event->length = length < EVENT_DETAIL_MAX ? length : EVENT_DETAIL_MAX;
    memcpy(event->detail, detail, event->length);
  }
  pthread_mutex_unlock(&ring->lock);
  if (was_empty) kick(plane);
  return fits;
}

bool event_raise_at(struct dataplane *plane, enum event_kind kind, uint32_t connection, uint32_t spi,
                    const struct endpoint *where) {
  char host[INET6_ADDRSTRLEN] = "", text[EVENT_DETAIL_MAX];
  inet_ntop(where->family, where->address, host, sizeof host);
  int length = snprintf(text, sizeof text, "%s %u", host, where->port);
  return event_raise(plane, kind, connection, spi, text, (size_t)length);
}

bool once_per_second(_Atomic uint64_t *mark) {
  /* Seconds from 1 on, so that a fresh mark of 0 never suppresses the first. */
  uint64_t second = now_ns() / 1000000000u + 1;
  uint64_t last = atomic_load_explicit(mark, memory_order_relaxed);
  return last != second && atomic_compare_exchange_strong(mark, &last, second);
}

bool punt_push(struct dataplane *plane, const uint8_t *data, size_t length, const struct endpoint *local,
               const struct endpoint *remote, int socket) {
  struct punt *punt = malloc(sizeof *punt + length);
  if (!punt) return false;
  punt->next = NULL;
  punt->local = *local;
  punt->remote = *remote;
  punt->socket = socket;
  punt->length = length;
  memcpy(punt->data, data, length);

  struct punt_ring *ring = plane->punts;
  pthread_mutex_lock(&ring->lock);
  bool fits = ring->count < PUNTS_MAX && ring->octets + length <= PUNT_OCTETS_MAX;
  bool was_empty = ring->count == 0;
  if (fits) {
    *ring->last = punt;
    ring->last = &punt->next;
    ring->count++;
    ring->octets += length;
  }
  pthread_mutex_unlock(&ring->lock);
  if (!fits) free(punt);
  if (was_empty) kick(plane);
  return fits;
}

size_t events_drain(struct dataplane *plane, struct event *out, size_t max) {
  clear_kick(plane);
  struct event_ring *ring = plane->events;
  pthread_mutex_lock(&ring->lock);
  size_t taken = ring->count < max ? ring->count : max;
  for (size_t i = 0; i < taken; i++)
    out[i] = ring->events[(ring->first + i) % EVENTS_MAX];
  ring->first = (ring->first + taken) % EVENTS_MAX;
  ring->count -= taken;
  bool more = ring->count > 0;
  pthread_mutex_unlock(&ring->lock);

  pthread_mutex_lock(&plane->punts->lock);
  more |= plane->punts->count > 0;
  pthread_mutex_unlock(&plane->punts->lock);
  if (more) kick(plane);
  return taken;
}

struct punt *punts_drain(struct dataplane *plane) {
  clear_kick(plane);
  struct punt_ring *ring = plane->punts;
  pthread_mutex_lock(&ring->lock);
  struct punt *chain = ring->first;
  ring->first = NULL;
  ring->last = &ring->first;
  ring->count = ring->octets = 0;
  pthread_mutex_unlock(&ring->lock);

  pthread_mutex_lock(&plane->events->lock);
  bool more = plane->events->count > 0;
  pthread_mutex_unlock(&plane->events->lock);
  if (more) kick(plane);
  return chain;
}
