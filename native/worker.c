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
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dataplane.h"
#include "inbound.h"
#include "outbound.h"
#include "udp.h"

#define READY_MAX       16
#define IDLE_TIMEOUT_MS 500 /* a worker's tick advances at least this often */
/* Busy polling: a core that others keep longer than this is left to them for a while. */
#define YIELD_LONG_NS     200000
#define CONTENDED_REST_NS 1000000000

static void serve(struct worker *worker, struct source *source, uint32_t ready) {
  if (source->kind == SOURCE_TUN) {
    if (outbound_turn(worker, source)) return;
    worker_unpoll(source);
    drop_count(worker, source->connection, DROP_TUN_READ_FAILED, 1);
    return;
  }
  /* A pending error keeps epoll ready until its queue is read. */
  if (ready & EPOLLERR) udp_drain_errors(source);
  inbound_turn(worker, source);
}

static uint64_t clock_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Looks for events without sleeping until `busy_poll_ns` have passed, then sleeps. Between two looks it yields: on a
 * shared core it is the others who bring the next packet. Who keeps the core for long does not; to one who yields the
 * scheduler gives it back last, and to one who wakes first, so there it is better to sleep. */
static int wait_for_work(struct worker *worker, struct epoll_event *ready, bool worked) {
  uint64_t patience = worker->plane->busy_poll_ns;
  if (worked && patience > 0) {
    uint64_t now = clock_ns(), until = now + patience;
    while (now < until && now >= worker->poll_again_ns) {
      int count = epoll_wait(worker->epoll, ready, READY_MAX, 0);
      if (count != 0) return count;
      counter_add(&worker->counters.empty_polls, 1);
      uint64_t before = clock_ns();
      sched_yield();
      now = clock_ns();
      if (now - before > YIELD_LONG_NS) worker->poll_again_ns = now + CONTENDED_REST_NS;
    }
  }
  return epoll_wait(worker->epoll, ready, READY_MAX, IDLE_TIMEOUT_MS);
}

/* Before the interpreter: ten thousand routes take it a second, and packets queue meanwhile. Not far before it, for a
 * core that is busy with packets must leave it a quarter. Without the right to it (RLIMIT_NICE) all are equal. */
#define NICE (-5)

static uint64_t thread_cpu_ns(pthread_t thread) {
  struct timespec cpu = {0, 0};
  clockid_t clock;
  if (pthread_getcpuclockid(thread, &clock) == 0) clock_gettime(clock, &cpu);
  return (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
}

static void *worker_main(void *argument) {
  struct worker *worker = argument;
  setpriority(PRIO_PROCESS, 0, NICE);
  struct epoll_event ready[READY_MAX];
  bool worked = false;
  while (!atomic_load_explicit(&worker->plane->stopping, memory_order_relaxed)) {
    int count = wait_for_work(worker, ready, worked);
    worked = false;
    /* From here to the next even turn this worker may hold pointers into the tables. The fence pairs with the one in
     * workers_quiesce: either that sees the odd turn, or this worker sees the new tables. */
    atomic_fetch_add(&worker->turn, 1);
    atomic_thread_fence(memory_order_seq_cst);
    counter_add(&worker->counters.ticks, 1);
    for (int i = 0; i < count; i++) {
      if (ready[i].data.ptr) {
        serve(worker, ready[i].data.ptr, ready[i].events);
        worked = true;
      } else {
        uint64_t kicks;
        if (read(worker->wake, &kicks, sizeof kicks) < 0) continue;
      }
    }
    atomic_fetch_add(&worker->turn, 1);
  }
  worker->cpu_ns = thread_cpu_ns(pthread_self());
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
  if (plane->halted) return;
  atomic_thread_fence(memory_order_seq_cst);
  for (unsigned i = 0; i < plane->worker_count; i++) {
    uint64_t turn = atomic_load(&plane->workers[i].turn);
    if (!asleep(turn)) wait_for_turn(&plane->workers[i], turn + 1);
  }
}

void workers_quiesce_sources(struct dataplane *plane) {
  if (plane->halted) return;
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

static bool worker_init(struct dataplane *plane, unsigned index, const struct placement *placement) {
  struct worker *worker = &plane->workers[index];
  worker->plane = plane;
  worker->index = index;
  worker->count_cycles = placement->count_cycles;
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

/* A thread's CPU, set before it runs for the first time; 0 or an errno: EINVAL when this process may not run there. */
static int attributes_pin(pthread_attr_t *attributes, unsigned cpu) {
  cpu_set_t set;
  if (cpu >= CPU_SETSIZE) return EINVAL;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  return pthread_attr_setaffinity_np(attributes, sizeof set, &set);
}

/* Signals belong to the interpreter's threads. */
static struct fault worker_launch(struct worker *worker, const struct placement *placement) {
  sigset_t all, before;
  pthread_attr_t attributes;
  bool pinned = placement->cpu_count > 0;
  if (pthread_attr_init(&attributes) != 0) return (struct fault){"out of memory", 0};
  int error = pinned ? attributes_pin(&attributes, placement->cpus[worker->index]) : 0;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  if (!error) error = pthread_create(&worker->thread, &attributes, worker_main, worker);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (pinned && (error == EINVAL || error == EPERM))
    return (struct fault){"a worker cannot be pinned: this process may not run on its CPU", error};
  if (error) return (struct fault){"the workers cannot be started", error};
  char name[16];
  snprintf(name, sizeof name, "gw-worker-%u", worker->index % 100);
  pthread_setname_np(worker->thread, name);
  return NO_FAULT;
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

static struct fault placement_check(unsigned workers, const struct placement *placement) {
  if (placement->cpu_count != 0 && placement->cpu_count != workers)
    return (struct fault){"one CPU for each worker, or none", 0};
  if (placement->busy_poll_us > BUSY_POLL_US_MAX) return (struct fault){"busy polling lasts at most 10000 us", 0};
  return NO_FAULT;
}

struct fault dataplane_start(unsigned workers, enum esp_engine engine, struct dataplane **out) {
  const struct placement anywhere = {0};
  return dataplane_start_placed(workers, engine, &anywhere, out);
}

struct fault dataplane_start_placed(unsigned workers, enum esp_engine engine, const struct placement *placement,
                                    struct dataplane **out) {
  *out = NULL;
  if (workers < 1 || workers > WORKERS_MAX) return (struct fault){"workers must be 1 to 64", 0};
  struct fault fault = placement_check(workers, placement);
  if (fault.sentence) return fault;
  enum esp_engine resolved = esp_engine_resolve(engine);
  if (engine == ESP_ENGINE_IPSECMB && resolved != engine) return (struct fault){"libipsec-mb is not available", 0};

  struct dataplane *plane = calloc(1, sizeof *plane);
  if (!plane) return (struct fault){"out of memory", 0};
  plane->engine = resolved;
  plane->worker_count = workers;
  plane->busy_poll_ns = placement->busy_poll_us * (uint64_t)1000;
  plane->event_fd = -1;
  atomic_init(&plane->gso_segments, GSO_SEGMENTS_MAX);
  pthread_mutex_init(&plane->control, NULL);
  plane->workers = aligned_alloc(CACHE_LINE, workers * sizeof *plane->workers);
  bool ready = events_init(plane) && plane->workers;
  if (plane->workers) {
    memset(plane->workers, 0, workers * sizeof *plane->workers);
    for (unsigned i = 0; i < workers; i++) {
      plane->workers[i].epoll = plane->workers[i].wake = -1;
      atomic_init(&plane->workers[i].packet_socket, -1);
    }
  }
  for (unsigned i = 0; i < workers && ready; i++)
    ready = worker_init(plane, i, placement);
  if (!ready) fault = (struct fault){"the workers cannot be started", errno ? errno : ENOMEM};
  unsigned running = 0;
  while (!fault.sentence && running < workers) {
    fault = worker_launch(&plane->workers[running], placement);
    running += !fault.sentence;
  }
  if (fault.sentence) {
    workers_join(plane, running);
    plane->stopped = true;
    if (plane->workers) workers_free(plane);
    dataplane_free(plane);
    return fault;
  }
  *out = plane;
  return NO_FAULT;
}

struct fault dataplane_share(struct dataplane *plane, int fd) {
  struct stat found;
  if (fstat(fd, &found)) return (struct fault){"the shared memory cannot be used", errno};
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  if (plane->shared || plane->sas) {
    fault.sentence = "memory is shared once, before there are SAs";
  } else {
    void *mapped = mmap(NULL, (size_t)found.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) {
      fault = (struct fault){"the shared memory cannot be used", errno};
    } else {
      plane->shared = mapped;
      plane->shared_octets = (size_t)found.st_size;
    }
  }
  control_leave(plane);
  return fault;
}

static void halt(struct dataplane *plane) {
  if (!plane->halted) workers_join(plane, plane->worker_count);
  plane->halted = true;
}

void dataplane_halt(struct dataplane *plane) {
  pthread_mutex_lock(&plane->control);
  if (!plane->stopped) halt(plane);
  pthread_mutex_unlock(&plane->control);
}

void dataplane_stop(struct dataplane *plane) {
  pthread_mutex_lock(&plane->control);
  if (!plane->stopped) {
    plane->stopped = true;
    halt(plane);
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
    index_free(&plane->outbound_sas);
    index_free(&plane->connections_by_id);
    plane->sockets = NULL;
    plane->sas = NULL;
    plane->connections = NULL;
    workers_free(plane);
    if (plane->shared) munmap(plane->shared, plane->shared_octets);
    plane->shared = NULL;
  }
  pthread_mutex_unlock(&plane->control);
}

void dataplane_free(struct dataplane *plane) {
  dataplane_stop(plane);
  events_free(plane);
  pthread_mutex_destroy(&plane->control);
  free(plane);
}

static struct burst_statistics bursts_read(const struct burst_counters *counters) {
  struct burst_statistics read = {.packets = atomic_load(&counters->packets)};
  for (int i = 0; i < BURST_BUCKETS; i++)
    read.sizes[i] = atomic_load(&counters->sizes[i]);
  return read;
}

static struct worker_statistics statistics_read(struct worker *worker) {
  struct worker_counters *counters = &worker->counters;
  struct worker_statistics read = {
      .ticks = atomic_load(&counters->ticks),
      .empty_polls = atomic_load(&counters->empty_polls),
      .tun_reads = atomic_load(&counters->tun_reads),
      .tun_writes = atomic_load(&counters->tun_writes),
      .udp_reads = atomic_load(&counters->udp_reads),
      .udp_sends = atomic_load(&counters->udp_sends),
      .packet_sends = atomic_load(&counters->packet_sends),
      .packets_full = atomic_load(&counters->packets_full),
      .packets_refused = atomic_load(&counters->packets_refused),
      /* Joined, the thread is no more. */
      .cpu_ns = worker->plane->halted ? worker->cpu_ns : thread_cpu_ns(worker->thread),
      .out = bursts_read(&counters->out),
      .in = bursts_read(&counters->in),
      .socket_drops = worker->socket_drops_before,
      .idle = asleep(atomic_load(&worker->turn)),
  };
  for (int i = 0; i < STAGE_COUNT; i++)
    read.cycles[i] = atomic_load(&counters->cycles[i]);
  return read;
}

struct fault dataplane_worker_statistics(struct dataplane *plane, struct worker_statistics *out) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  for (unsigned i = 0; i < plane->worker_count; i++)
    out[i] = statistics_read(&plane->workers[i]);
  /* Asked of the kernel here, so that it costs the workers nothing. */
  for (const struct source *socket = plane->sockets; socket; socket = socket->next) {
    struct worker_statistics *row = &out[socket->worker->index];
    struct socket_backlog backlog = socket_backlog(socket->fd);
    row->socket_queue_octets += backlog.octets;
    row->socket_drops += backlog.drops;
  }
  control_leave(plane);
  return fault;
}

static uint64_t drops_of(const struct dataplane *plane, const struct connection *connection, int reason) {
  uint64_t packets = 0;
  for (unsigned w = 0; w < plane->worker_count; w++)
    packets += atomic_load_explicit(connection ? &connection->lanes[w].drops[reason] : &plane->workers[w].drops[reason],
                                    memory_order_relaxed);
  return packets;
}

struct fault dataplane_drops(struct dataplane *plane, struct drop_row **rows, size_t *count) {
  struct fault fault = control_enter(plane);
  if (fault.sentence) return fault;
  size_t owners = 1 + plane->connections_by_id.count;
  *rows = calloc(owners * DROP_REASON_COUNT, sizeof **rows);
  *count = 0;
  if (!*rows) {
    fault.sentence = "out of memory";
    owners = 0;
  }
  const struct connection *connection = NULL;
  for (size_t i = 0; i < owners; i++) {
    for (int reason = 0; reason < DROP_REASON_COUNT; reason++) {
      uint64_t packets = drops_of(plane, connection, reason);
      if (packets == 0) continue;
      (*rows)[(*count)++] = (struct drop_row){connection ? connection->id : 0, (enum drop_reason)reason, packets};
    }
    connection = connection ? connection->next : plane->connections;
  }
  control_leave(plane);
  return fault;
}
