/* The probe thread; see probe.h.
 *
 * One lock guards everything. The thread holds it while it works, for at most a few hundred packets; the control thread
 * for a table change or one send. Timers are a heap by the earliest of a probe's two times; what a packet postpones is
 * put right when it comes up. Before silence counts every socket is read until it is empty, so a thread that was late
 * declares nobody dead whose packets wait.
 */
#include "probe_tables.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define NICE         (-20)
#define LATE         10000000 /* ns: longer than a thread of this priority ever waits on a machine that runs */
#define EXPIRE_LATER 10000000 /* ns, where there was no memory to tell of it */

/* ---- timers ---- */

static void heap_put(struct probes *probes, size_t place, struct probe *probe) {
  probes->heap[place] = probe;
  probe->place = place;
}

static void heap_settle(struct probes *probes, struct probe *probe) {
  size_t place = probe->place;
  for (size_t above; place > 0 && probes->heap[above = (place - 1) / 2]->due > probe->due; place = above)
    heap_put(probes, place, probes->heap[above]);
  for (size_t below; (below = 2 * place + 1) < probes->count; place = below) {
    if (below + 1 < probes->count && probes->heap[below + 1]->due < probes->heap[below]->due) below++;
    if (probes->heap[below]->due >= probe->due) break;
    heap_put(probes, place, probes->heap[below]);
  }
  heap_put(probes, place, probe);
}

static void schedule(struct probes *probes, struct probe *probe) {
  probe->due = probe->send_at < probe->detect_at ? probe->send_at : probe->detect_at;
  heap_settle(probes, probe);
}

static bool heap_add(struct probes *probes, struct probe *probe) {
  if (probes->count == probes->room) {
    size_t room = probes->room ? 2 * probes->room : 16;
    struct probe **grown = realloc(probes->heap, room * sizeof *grown);
    if (!grown) return false;
    probes->heap = grown;
    probes->room = room;
  }
  probe->due = NEVER;
  heap_put(probes, probes->count++, probe);
  return true;
}

static void heap_remove(struct probes *probes, struct probe *probe) {
  struct probe *last = probes->heap[--probes->count];
  if (last == probe) return;
  heap_put(probes, probe->place, last);
  heap_settle(probes, last);
}

/* ---- sending ---- */

/* xorshift64*: jitter only keeps sessions out of step. */
static uint64_t between(struct probes *probes, uint64_t shortest, uint64_t longest) {
  probes->random ^= probes->random >> 12;
  probes->random ^= probes->random << 25;
  probes->random ^= probes->random >> 27;
  uint64_t value = probes->random * 0x2545f4914f6cdd1du;
  return shortest + (longest > shortest ? (value >> 16) % (longest - shortest) : 0);
}

static void transmit(struct probe *probe, const uint8_t *octets, size_t length) {
  int fd = probe->beat ? beat_socket(probe->beat) : probe->path.socket;
  ssize_t sent = sendto(fd, octets, length, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&probe->name,
                        probe->name_length);
  if (sent < 0)
    probe->statistics.send_failed++;
  else
    probe->statistics.sent++;
}

static void transmit_beat(struct probe *probe, const uint8_t *body, size_t length) {
  uint8_t sealed[BEAT_OCTETS_MAX];
  size_t octets = beat_seal(probe->beat, body, length, sealed);
  if (octets)
    transmit(probe, sealed, octets);
  else
    probe->statistics.send_failed++;
}

static void transmit_regularly(struct probes *probes, struct probe *probe, uint64_t now) {
  const struct probe_program *program = &probe->program;
  if (!probe->beat) {
    transmit(probe, program->octets, program->length);
  } else if (beat_vouched(probe->beat)) {
    transmit_beat(probe, NULL, 0);
  } else {
    /* Python hangs: a gateway that nobody leads is to be taken for what it is. */
    probe->send_at = NEVER;
    return;
  }
  probe->sent_at = now;
  probe->send_at = now + between(probes, program->shortest_ns, program->longest_ns);
}

/* ---- the thread ---- */

/* A thread that comes late, because the machine stood still or gave others the time, saw nothing; so did the kernel,
 * whose packets may be on their way up to the socket, and maybe the peer beside us. So it listens once more for as long
 * as it was late, at most for another detection time. */
static void expire(struct probes *probes, struct probe *probe, uint64_t now) {
  uint64_t late = now - probe->detect_at, detection = probe->program.detection_ns;
  if (late > LATE && !probe->doubted) {
    probe->doubted = true;
    probe->detect_at = now + (late < detection ? late : detection);
    return;
  }
  probe->detect_at = probe_tell(probes, probe, true, now, NULL, 0) ? NEVER : now + EXPIRE_LATER;
}

static void serve_timers(struct probes *probes) {
  uint64_t now = probe_clock();
  bool drained = false;
  while (probes->count && probes->heap[0]->due <= now) {
    struct probe *probe = probes->heap[0];
    if (probe->send_at <= now) transmit_regularly(probes, probe, now);
    if (probe->detect_at <= now && !drained) {
      for (struct listener *listener = probes->listeners; listener; listener = listener->next)
        probe_drain(probes, listener, DRAIN_BATCHES);
      drained = true;
    }
    if (probe->detect_at <= now) expire(probes, probe, now);
    schedule(probes, probe);
  }
}

static void serve_socket(struct probes *probes, int fd) {
  for (struct listener *listener = probes->listeners; listener; listener = listener->next)
    if (listener->fd == fd) probe_drain(probes, listener, TURN_BATCHES);
}

/* Absolute, so that the time between looking and setting does not count; 1 ns for what is due. */
static void set_timer(struct probes *probes) {
  uint64_t due = probes->count ? probes->heap[0]->due : NEVER;
  struct itimerspec when = {{0, 0}, {0, 0}};
  if (due != NEVER) {
    when.it_value.tv_sec = (time_t)(due / SECOND_NS);
    when.it_value.tv_nsec = (long)(due % SECOND_NS) + (due == 0);
  }
  timerfd_settime(probes->timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void *probe_main(void *argument) {
  struct probes *probes = argument;
  struct epoll_event ready[16];
  prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
  /* It works for microseconds, and not to be let in time to do it looks like a dead peer. Without the right to it
   * (RLIMIT_NICE) it runs like everybody else. */
  setpriority(PRIO_PROCESS, 0, NICE);
  while (!atomic_load(&probes->stopping)) {
    int count = epoll_wait(probes->epoll, ready, 16, -1);
    pthread_mutex_lock(&probes->lock);
    for (int i = 0; i < count; i++) {
      uint64_t kicks;
      int fd = ready[i].data.fd;
      if (fd != probes->wake && fd != probes->timer)
        serve_socket(probes, fd);
      else if (read(fd, &kicks, sizeof kicks) < 0)
        continue;
    }
    serve_timers(probes);
    set_timer(probes);
    pthread_mutex_unlock(&probes->lock);
  }
  return NULL;
}

static struct fault launch(struct probes *probes) {
  sigset_t all, before;
  /* Signals belong to the interpreter's threads. */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&probes->thread, NULL, probe_main, probes);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error) return (struct fault){"the probe thread cannot be started", error};
  pthread_setname_np(probes->thread, "gw-probe");
  probes->running = true;
  return NO_FAULT;
}

static bool poll_fd(struct probes *probes, int fd) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  return epoll_ctl(probes->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

struct fault probes_start(struct probes **out) {
  struct probes *probes = *out = calloc(1, sizeof *probes);
  if (!probes) return (struct fault){"out of memory", 0};
  pthread_mutex_init(&probes->lock, NULL);
  probes->news_end = &probes->news;
  probes->epoll = epoll_create1(EPOLL_CLOEXEC);
  probes->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  probes->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  probes->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  struct fault fault = NO_FAULT;
  if (probes->epoll < 0 || probes->wake < 0 || probes->event_fd < 0 || probes->timer < 0 ||
      !poll_fd(probes, probes->wake) || !poll_fd(probes, probes->timer) ||
      getrandom(&probes->random, sizeof probes->random, 0) != sizeof probes->random)
    fault = (struct fault){"the probe thread cannot be started", errno};
  probes->random |= 1;
  if (!fault.sentence) fault = launch(probes);
  if (!fault.sentence) return NO_FAULT;
  probes_free(probes);
  *out = NULL;
  return fault;
}

void probes_stop(struct probes *probes) {
  if (!probes->running) return;
  probes->running = false;
  atomic_store(&probes->stopping, true);
  probe_kick(probes->wake);
  pthread_join(probes->thread, NULL);
}

static void free_news(struct probe_news *news) {
  for (struct probe_news *next; news; news = next) {
    next = news->next;
    free(news);
  }
}

void probes_free(struct probes *probes) {
  probes_stop(probes);
  for (size_t i = 0; i < probes->count; i++) {
    beat_free(probes->heap[i]->beat);
    free(probes->heap[i]);
  }
  for (struct listener *listener = probes->listeners, *next; listener; listener = next) {
    next = listener->next;
    free(listener);
  }
  free_news(probes->news);
  free(probes->heap);
  index_free(&probes->by_id);
  index_free(&probes->by_key);
  index_free(&probes->by_remote);
  const int fds[] = {probes->epoll, probes->wake, probes->event_fd, probes->timer};
  for (size_t i = 0; i < sizeof fds / sizeof *fds; i++)
    if (fds[i] >= 0) close(fds[i]);
  pthread_mutex_destroy(&probes->lock);
  free(probes);
}

int probes_event_fd(const struct probes *probes) {
  return probes->event_fd;
}

/* ---- control ---- */

static struct fault enter(struct probes *probes) {
  pthread_mutex_lock(&probes->lock);
  if (!atomic_load(&probes->stopping)) return NO_FAULT;
  pthread_mutex_unlock(&probes->lock);
  return (struct fault){"the probes are stopped", 0};
}

/* The thread looks at its timers again. Not before the lock is free: it would put us aside at once, and wait for us. */
static struct fault leave(struct probes *probes, struct fault fault) {
  pthread_mutex_unlock(&probes->lock);
  probe_kick(probes->wake);
  return fault;
}

static bool tells_where(int fd) {
  int on = 1, domain = 0;
  socklen_t length = sizeof domain;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) < 0) return false;
  if (domain == AF_INET6)
    return setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof on) == 0 &&
           setsockopt(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, &on, sizeof on) == 0;
  return setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof on) == 0 &&
         setsockopt(fd, IPPROTO_IP, IP_RECVTTL, &on, sizeof on) == 0;
}

struct fault probe_listen(struct probes *probes, int fd, enum probe_kind kind) {
  if (!tells_where(fd)) return (struct fault){"this socket does not tell where packets come from", errno};
  struct listener *listener = malloc(sizeof *listener);
  if (!listener) return (struct fault){"out of memory", 0};
  struct fault fault = enter(probes);
  if (fault.sentence) {
    free(listener);
    return fault;
  }
  if (!poll_fd(probes, fd)) {
    fault = (struct fault){"the probe thread cannot poll this fd", errno};
    free(listener);
  } else {
    *listener = (struct listener){probes->listeners, fd, kind};
    probes->listeners = listener;
  }
  return leave(probes, fault);
}

struct fault probe_unlisten(struct probes *probes, int fd) {
  struct fault fault = enter(probes);
  if (fault.sentence) return fault;
  for (struct listener **at = &probes->listeners, *listener; (listener = *at); at = &listener->next) {
    if (listener->fd != fd) continue;
    epoll_ctl(probes->epoll, EPOLL_CTL_DEL, fd, NULL);
    *at = listener->next;
    free(listener);
    break;
  }
  return leave(probes, NO_FAULT);
}

static void name_remote(struct probe *probe, const struct endpoint *remote) {
  if (remote->family == AF_INET) {
    struct sockaddr_in *name = (struct sockaddr_in *)&probe->name;
    *name = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(remote->port)};
    memcpy(&name->sin_addr, remote->address, sizeof name->sin_addr);
    probe->name_length = sizeof *name;
  } else {
    struct sockaddr_in6 *name = (struct sockaddr_in6 *)&probe->name;
    *name = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(remote->port)};
    memcpy(&name->sin6_addr, remote->address, sizeof name->sin6_addr);
    name->sin6_scope_id = remote->scope;
    probe->name_length = sizeof *name;
  }
}

static void chain_remote(struct probes *probes, struct probe *probe, uint64_t hash) {
  struct probe *first = index_at(&probes->by_remote, hash);
  if (!first) return;
  probe->next_of_remote = first->next_of_remote;
  first->next_of_remote = probe;
}

/* All or nothing; the hash's first probe stands in the index, the others behind it. */
static bool enroll(struct probes *probes, struct probe *probe) {
  uint64_t hash = probe_remote_hash(probe->path.kind, &probe->path.remote),
           key = probe_key(probe->path.kind, probe->path.key);
  bool alone = !index_at(&probes->by_remote, hash);
  if (!index_put(&probes->by_id, probe->path.id, probe)) return false;
  bool keyed = index_put(&probes->by_key, key, probe);
  bool placed = keyed && (!alone || index_put(&probes->by_remote, hash, probe));
  if (placed && heap_add(probes, probe)) {
    if (!alone) chain_remote(probes, probe, hash);
    return true;
  }
  if (placed && alone) index_remove(&probes->by_remote, hash);
  if (keyed) index_remove(&probes->by_key, key);
  index_remove(&probes->by_id, probe->path.id);
  return false;
}

static void withdraw(struct probes *probes, struct probe *probe) {
  uint64_t hash = probe_remote_hash(probe->path.kind, &probe->path.remote);
  struct probe *first = index_at(&probes->by_remote, hash);
  if (first == probe) {
    index_remove(&probes->by_remote, hash);
    /* There is room for what was just taken out. */
    if (probe->next_of_remote) (void)index_put(&probes->by_remote, hash, probe->next_of_remote);
  } else {
    while (first->next_of_remote != probe)
      first = first->next_of_remote;
    first->next_of_remote = probe->next_of_remote;
  }
  index_remove(&probes->by_key, probe_key(probe->path.kind, probe->path.key));
  index_remove(&probes->by_id, probe->path.id);
  heap_remove(probes, probe);
}

struct fault probe_add(struct probes *probes, const struct probe_path *path) {
  struct probe *probe = calloc(1, sizeof *probe);
  if (!probe) return (struct fault){"out of memory", 0};
  probe->path = *path;
  probe->send_at = probe->detect_at = NEVER;
  probe->statistics.id = path->id;
  name_remote(probe, &path->remote);
  struct fault fault = enter(probes);
  if (fault.sentence) {
    free(probe);
    return fault;
  }
  if (index_at(&probes->by_id, path->id))
    fault = (struct fault){"there is a probe with this id", 0};
  else if (path->kind == PROBE_HEARTBEAT || path->key == 0 ||
           index_at(&probes->by_key, probe_key(path->kind, path->key)))
    fault = (struct fault){"the key is zero or another probe's", 0};
  else if (!enroll(probes, probe))
    fault = (struct fault){"out of memory", 0};
  if (fault.sentence) free(probe);
  return leave(probes, fault);
}

static void begin_sending(struct probes *probes, struct probe *probe, uint64_t now) {
  if (probe->program.at_once) {
    transmit_regularly(probes, probe, now);
    return;
  }
  /* RFC 5880 6.8.3: not later than the new interval after the packet before */
  uint64_t latest = probe->sent_at + probe->program.longest_ns;
  if (latest < now) latest = now;
  if (probe->send_at > latest) probe->send_at = latest;
}

struct fault probe_arm(struct probes *probes, uint32_t id, const struct probe_program *program) {
  if (program->length && program->shortest_ns == 0) return (struct fault){"an interval must not be zero", 0};
  struct fault fault = enter(probes);
  if (fault.sentence) return fault;
  struct probe *probe = index_at(&probes->by_id, id);
  if (!probe || probe->beat) return leave(probes, (struct fault){"there is no such probe", 0});
  uint64_t now = probe_clock();
  probe->program = *program;
  probe->doubted = false;
  probe->detect_at = program->detection_ns ? now + program->detection_ns : NEVER;
  if (program->length)
    begin_sending(probes, probe, now);
  else
    probe->send_at = NEVER;
  schedule(probes, probe);
  return leave(probes, NO_FAULT);
}

struct fault probe_send(struct probes *probes, uint32_t id, const uint8_t *octets, size_t length) {
  struct fault fault = enter(probes);
  if (fault.sentence) return fault;
  struct probe *probe = index_at(&probes->by_id, id);
  bool known = probe && !probe->beat;
  if (known) transmit(probe, octets, length);
  pthread_mutex_unlock(&probes->lock);
  return known ? NO_FAULT : (struct fault){"there is no such probe", 0};
}

struct fault probe_remove(struct probes *probes, uint32_t id) {
  struct fault fault = enter(probes);
  if (fault.sentence) return fault;
  struct probe *probe = index_at(&probes->by_id, id);
  /* A heartbeat rests: its numbers must go on where they were. */
  if (probe && !probe->beat) {
    withdraw(probes, probe);
    free(probe);
  }
  return leave(probes, NO_FAULT);
}

/* ---- heartbeats ---- */

static struct probe *beat_of_path(struct probes *probes, uint32_t path) {
  struct probe *probe = index_at(&probes->by_id, path);
  return probe && probe->beat ? probe : NULL;
}

static struct fault add_beat(struct probes *probes, uint32_t path) {
  if (index_at(&probes->by_id, path)) return (struct fault){"there is a probe with this id", 0};
  struct probe *probe = calloc(1, sizeof *probe);
  if (!probe) return (struct fault){"out of memory", 0};
  probe->path = (struct probe_path){.id = path, .key = path + 1, .kind = PROBE_HEARTBEAT, .socket = -1};
  probe->send_at = probe->detect_at = NEVER;
  probe->statistics.id = path;
  probe->beat = beat_new();
  if (probe->beat && enroll(probes, probe)) return NO_FAULT;
  beat_free(probe->beat);
  free(probe);
  return (struct fault){"out of memory", 0};
}

struct fault probe_beat(struct probes *probes, uint32_t path, const struct beat_program *program) {
  if (path >= BEAT_PATHS) return (struct fault){"a heartbeat has at most 256 paths", 0};
  if (program->shortest_ns == 0) return (struct fault){"an interval must not be zero", 0};
  if (program->length < BEAT_BODY_LEAST) return (struct fault){"this is no heartbeat", 0};
  struct fault fault = enter(probes);
  if (fault.sentence) return fault;
  if (!beat_of_path(probes, path)) fault = add_beat(probes, path);
  if (fault.sentence) return leave(probes, fault);
  struct probe *probe = beat_of_path(probes, path);
  if (!beat_arm(probe->beat, program)) return leave(probes, (struct fault){"out of memory", 0});
  name_remote(probe, &program->remote);
  probe->program.shortest_ns = program->shortest_ns;
  probe->program.longest_ns = program->longest_ns;
  probe->program.at_once = program->at_once;
  begin_sending(probes, probe, probe_clock());
  schedule(probes, probe);
  return leave(probes, NO_FAULT);
}

struct fault probe_beat_once(struct probes *probes, uint32_t path, const uint8_t *body, size_t length) {
  if (length < BEAT_BODY_LEAST || length > BEAT_BODY_MAX) return (struct fault){"this is no heartbeat", 0};
  struct fault fault = enter(probes);
  if (fault.sentence) return fault;
  struct probe *probe = beat_of_path(probes, path);
  bool armed = probe && beat_socket(probe->beat) >= 0;
  if (armed) transmit_beat(probe, body, length);
  pthread_mutex_unlock(&probes->lock);
  return armed ? NO_FAULT : (struct fault){"this heartbeat is not armed", 0};
}

struct fault probe_beat_rest(struct probes *probes, uint32_t path) {
  struct fault fault = enter(probes);
  if (fault.sentence) return fault;
  struct probe *probe = beat_of_path(probes, path);
  if (probe) {
    beat_rest(probe->beat);
    probe->send_at = NEVER;
    schedule(probes, probe);
  }
  return leave(probes, NO_FAULT);
}

struct probe_news *probes_news(struct probes *probes) {
  uint64_t kicks;
  pthread_mutex_lock(&probes->lock);
  struct probe_news *chain = probes->news;
  probes->news = NULL;
  probes->news_end = &probes->news;
  probes->news_count = 0;
  /* EAGAIN: nobody kicked. */
  if (read(probes->event_fd, &kicks, sizeof kicks) < 0) kicks = 0;
  pthread_mutex_unlock(&probes->lock);
  return chain;
}

struct fault probes_statistics(struct probes *probes, struct probe_statistics **rows, size_t *count,
                               uint64_t *refused) {
  struct fault fault = enter(probes);
  if (fault.sentence) return fault;
  *rows = calloc(probes->count + 1, sizeof **rows);
  *count = *rows ? probes->count : 0;
  for (size_t i = 0; i < *count; i++)
    (*rows)[i] = probes->heap[i]->statistics;
  memcpy(refused, probes->refused, sizeof probes->refused);
  pthread_mutex_unlock(&probes->lock);
  return *rows ? NO_FAULT : (struct fault){"out of memory", 0};
}
