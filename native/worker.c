/* Worker threads: one epoll loop each, run to completion; the quiescence that the control thread relies on; statistics.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "dataplane.h"
#include "inbound.h"
#include "outbound.h"
#include "udp.h"

#define READY_MAX       16
#define IDLE_TIMEOUT_MS 500 /* a worker's tick advances at least this often */

static void serve(struct worker *worker, struct source *source, uint32_t ready) {
  if (source->kind == SOURCE_TUN) {
    if (!outbound_turn(worker, source)) worker_unpoll(source);
    return;
  }
  /* A pending error keeps epoll ready until its queue is read. */
  if (ready & EPOLLERR) udp_drain_errors(source);
  inbound_turn(worker, source);
}

static void *worker_main(void *argument) {
  struct worker *worker = argument;
  struct epoll_event ready[READY_MAX];
  while (!atomic_load_explicit(&worker->plane->stopping, memory_order_relaxed)) {
    int count = epoll_wait(worker->epoll, ready, READY_MAX, IDLE_TIMEOUT_MS);
    /* From here to the next even turn this worker may hold pointers into the tables. The fence pairs with the one in
     * workers_quiesce: either that sees the odd turn, or this worker sees the new tables. */
    atomic_fetch_add(&worker->turn, 1);
    atomic_thread_fence(memory_order_seq_cst);
    counter_add(&worker->counters.ticks, 1);
    for (int i = 0; i < count; i++) {
      if (ready[i].data.ptr) {
        serve(worker, ready[i].data.ptr, ready[i].events);
      } else {
        uint64_t kicks;
        if (read(worker->wake, &kicks, sizeof kicks) < 0) continue;
      }
    }
    atomic_fetch_add(&worker->turn, 1);
  }
  return NULL;
}

static bool asleep(uint64_t turn) {
  return turn % 2 == 0;
}

static void wait_for_turn(struct worker *worker, uint64_t turn) {
  const struct timespec pause = {0, 20000};
  for (unsigned tries = 0; atomic_load(&worker->turn) < turn; tries++) {
    if (tries < 16)
      sched_yield();
    else
      nanosleep(&pause, NULL);
  }
}

void workers_quiesce(struct dataplane *plane) {
  atomic_thread_fence(memory_order_seq_cst);
  for (unsigned i = 0; i < plane->worker_count; i++) {
    uint64_t turn = atomic_load(&plane->workers[i].turn);
    if (!asleep(turn)) wait_for_turn(&plane->workers[i], turn + 1);
  }
}

void workers_quiesce_sources(struct dataplane *plane) {
  atomic_thread_fence(memory_order_seq_cst);
  for (unsigned i = 0; i < plane->worker_count; i++) {
    struct worker *worker = &plane->workers[i];
    uint64_t turn = atomic_load(&worker->turn), one = 1;
    /* Seen asleep it may just have been handed an event: let it finish one whole turn. */
    if (write(worker->wake, &one, sizeof one) < 0 && errno != EAGAIN) continue;
    wait_for_turn(worker, asleep(turn) ? turn + 2 : turn + 1);
  }
}

struct fault worker_poll(struct worker *worker, struct source *source) {
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};
  source->worker = worker; /* from the next line on the worker may look */
  if (epoll_ctl(worker->epoll, EPOLL_CTL_ADD, source->fd, &event) == 0) return NO_FAULT;
  source->worker = NULL;
  return (struct fault){"the worker cannot poll this fd", errno};
}

void worker_unpoll(struct source *source) {
  /* Idempotent: ENOENT when a worker did it already, EBADF when the owner closed the fd too early. */
  if (source->worker) epoll_ctl(source->worker->epoll, EPOLL_CTL_DEL, source->fd, NULL);
}

void drop_count(struct worker *worker, struct connection *connection, enum drop_reason reason, uint64_t packets) {
  _Atomic uint64_t *drops = connection ? connection->lanes[worker->index].drops : worker->drops;
  counter_add(&drops[reason], packets);
}

struct fault control_enter(struct dataplane *plane) {
  pthread_mutex_lock(&plane->control);
  if (!plane->stopped) return NO_FAULT;
  pthread_mutex_unlock(&plane->control);
  return (struct fault){"the data plane is stopped", 0};
}

void control_leave(struct dataplane *plane) {
  pthread_mutex_unlock(&plane->control);
}

static bool worker_init(struct dataplane *plane, unsigned index) {
  struct worker *worker = &plane->workers[index];
  worker->plane = plane;
  worker->index = index;
  worker->epoll = epoll_create1(EPOLL_CLOEXEC);
  worker->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  worker->esp = esp_thread_new(plane->engine);
  worker->outbound = outbound_new();
  worker->inbound = inbound_new();
  if (worker->epoll < 0 || worker->wake < 0 || !worker->esp || !worker->outbound || !worker->inbound) return false;
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
  return epoll_ctl(worker->epoll, EPOLL_CTL_ADD, worker->wake, &event) == 0;
}

static void worker_release(struct worker *worker) {
  if (worker->epoll >= 0) close(worker->epoll);
  if (worker->wake >= 0) close(worker->wake);
  if (worker->esp) esp_thread_free(worker->esp);
  outbound_free(worker->outbound);
  inbound_free(worker->inbound);
}

/* Signals belong to the interpreter's threads. */
static bool worker_launch(struct worker *worker) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&worker->thread, NULL, worker_main, worker);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error) return false;
  char name[16];
  snprintf(name, sizeof name, "gw-worker-%u", worker->index % 100);
  pthread_setname_np(worker->thread, name);
  return true;
}

static void workers_join(struct dataplane *plane, unsigned running) {
  atomic_store(&plane->stopping, true);
  for (unsigned i = 0; i < running; i++) {
    uint64_t one = 1;
    /* Lost, the worker still looks up at its next timeout. */
    if (write(plane->workers[i].wake, &one, sizeof one) < 0) continue;
  }
  for (unsigned i = 0; i < running; i++)
    pthread_join(plane->workers[i].thread, NULL);
}

static void workers_free(struct dataplane *plane) {
  for (unsigned i = 0; i < plane->worker_count; i++)
    worker_release(&plane->workers[i]);
  free(plane->workers);
  plane->workers = NULL;
}

struct fault dataplane_start(unsigned workers, enum esp_engine engine, struct dataplane **out) {
  *out = NULL;
  if (workers < 1 || workers > WORKERS_MAX) return (struct fault){"workers must be 1 to 64", 0};
  enum esp_engine resolved = esp_engine_resolve(engine);
  if (engine == ESP_ENGINE_IPSECMB && resolved != engine) return (struct fault){"libipsec-mb is not available", 0};

  struct dataplane *plane = calloc(1, sizeof *plane);
  if (!plane) return (struct fault){"out of memory", 0};
  plane->engine = resolved;
  plane->worker_count = workers;
  plane->event_fd = -1;
  atomic_init(&plane->gso_segments, GSO_SEGMENTS_MAX);
  pthread_mutex_init(&plane->control, NULL);
  plane->workers = aligned_alloc(CACHE_LINE, workers * sizeof *plane->workers);
  bool ready = events_init(plane) && plane->workers;
  if (plane->workers) {
    memset(plane->workers, 0, workers * sizeof *plane->workers);
    for (unsigned i = 0; i < workers; i++)
      plane->workers[i].epoll = plane->workers[i].wake = -1;
  }
  for (unsigned i = 0; i < workers && ready; i++)
    ready = worker_init(plane, i);
  unsigned running = 0;
  while (ready && running < workers) {
    ready = worker_launch(&plane->workers[running]);
    running += ready;
  }
  if (!ready) {
    struct fault fault = {"the workers cannot be started", errno ? errno : ENOMEM};
    workers_join(plane, running);
    plane->stopped = true;
    if (plane->workers) workers_free(plane);
    dataplane_free(plane);
    return fault;
  }
  *out = plane;
  return NO_FAULT;
}

void dataplane_stop(struct dataplane *plane) {
  pthread_mutex_lock(&plane->control);
  if (!plane->stopped) {
    plane->stopped = true;
    workers_join(plane, plane->worker_count);
    for (struct source *source = plane->sockets, *next; source; source = next) {
      next = source->next;
      free(source);
    }
    sas_free(plane->sas);
    for (struct connection *connection = plane->connections, *next; connection; connection = next) {
      next = connection->next;
      connection_free(connection);
    }
    free(atomic_exchange(&plane->inbound_sas, NULL));
    plane->sockets = NULL;
    plane->sas = NULL;
    plane->connections = NULL;
    workers_free(plane);
  }
  pthread_mutex_unlock(&plane->control);
}

void dataplane_free(struct dataplane *plane) {
  dataplane_stop(plane);
  events_free(plane);
  pthread_mutex_destroy(&plane->control);
  free(plane);
}

struct fault dataplane_worker_statistics(struct dataplane *plane, struct worker_statistics *out) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  for (unsigned i = 0; i < plane->worker_count; i++) {
    struct worker *worker = &plane->workers[i];
    struct timespec cpu = {0, 0};
    clockid_t clock;
    if (pthread_getcpuclockid(worker->thread, &clock) == 0) clock_gettime(clock, &cpu);
    out[i] = (struct worker_statistics){
        .ticks = atomic_load(&worker->counters.ticks),
        .tun_reads = atomic_load(&worker->counters.tun_reads),
        .tun_writes = atomic_load(&worker->counters.tun_writes),
        .udp_reads = atomic_load(&worker->counters.udp_reads),
        .udp_sends = atomic_load(&worker->counters.udp_sends),
        .cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec,
        .idle = asleep(atomic_load(&worker->turn)),
    };
  }
  control_leave(plane);
  return fault;
}

struct fault dataplane_drops(struct dataplane *plane, struct drop_row **rows, size_t *count) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  size_t owners = 1;
  for (const struct connection *c = plane->connections; c; c = c->next)
    owners++;
  *rows = calloc(owners * DROP_REASON_COUNT, sizeof **rows);
  *count = 0;
  if (!*rows) {
    fault.sentence = "out of memory";
    owners = 0;
  }
  struct connection *connection = NULL;
  for (size_t i = 0; i < owners; i++) {
    for (int reason = 0; reason < DROP_REASON_COUNT; reason++) {
      struct drop_row *row = &(*rows)[(*count)++];
      row->connection = connection ? connection->id : 0;
      row->reason = (enum drop_reason)reason;
      for (unsigned w = 0; w < plane->worker_count; w++)
        row->packets += connection ? atomic_load(&connection->lanes[w].drops[reason])
                                   : atomic_load(&plane->workers[w].drops[reason]);
    }
    connection = connection ? connection->next : plane->connections;
  }
  control_leave(plane);
  return fault;
}
